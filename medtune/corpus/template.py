"""Prompt templates. Each is a Jinja chat template set on the tokenizer, so that training, `medtune ask` and any server
that loads the merged model render the same text from the same place.

    tokenizer = dress(tokenizer, "alpaca-ko", system=None)
    ids = prompt_ids([{"role": "user", "content": "머리가 아파요."}], tokenizer)
"""

from typing import TYPE_CHECKING

from medtune.params.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Korea University NLP&AI trained KULLM3 with this system prompt fixed; its card warns that answers get worse without.
KULLM_SYSTEM = (
    "당신은 고려대학교 NLP&AI 연구실에서 만든 AI 챗봇입니다.\n"
    "당신의 이름은 'KULLM'으로, 한국어로는 '구름'을 뜻합니다.\n"
    "당신은 비도덕적이거나, 성적이거나, 불법적이거나 또는 사회 통념적으로 허용되지 않는 발언은 하지 않습니다.\n"
    "사용자와 즐겁게 대화하며, 사용자의 응답에 가능한 정확하고 친절하게 응답함으로써 최대한 도와주려고 노력합니다.\n"
    "질문이 이상하다면, 어떤 부분이 이상한지 설명합니다. 거짓 정보를 발언하지 않도록 주의합니다."
)

# The seed's two templates. A system message (or a dataset's constant instruction) takes the place of the instruction
# and the question becomes its input, as the "with input" form means it.
_ALPACA_KO = """
{%- set state = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set state.system = message.content -%}
{%- elif message.role == 'user' -%}
{%- set instruction = state.system if state.system and not message.input else message.content -%}
{%- set input = message.content if state.system and not message.input else (message.input or '') -%}
{%- if input -%}
{{- '아래는 작업을 설명하는 지시사항과 추가 정보를 제공하는 입력이 짝으로 구성됩니다. '
    + '이에 대한 적절한 응답을 작성해주세요.\\n\\n### 지시사항:\\n'
    + instruction + '\\n\\n### 입력:\\n' + input + '\\n\\n### 응답:' -}}
{%- else -%}
{{- '아래는 작업을 설명하는 지시사항입니다. 이에 대한 적절한 응답을 작성해주세요.\\n\\n### 지시사항:\\n'
    + instruction + '\\n\\n### 응답:' -}}
{%- endif -%}
{%- else -%}
{{- message.content + eos_token + '\\n\\n' -}}
{%- endif -%}
{%- endfor -%}
"""

_KULLM = """
{%- set state = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set state.system = message.content -%}
{%- elif message.role == 'user' -%}
{%- set question = message.content + ('\\n\\n' + message.input if message.input else '') -%}
{{- '[INST] ' + ('<<SYS>>\\n' + state.system + '\\n<</SYS>>\\n\\n' if state.system else '') + question + ' [/INST]' -}}
{%- set state.system = '' -%}
{%- else -%}
{{- ' ' + message.content + eos_token -}}
{%- endif -%}
{%- endfor -%}
"""

_DOCTOR_SYSTEM = "You are a professional medical doctor. Based on the below context, generate answer for the question."
# The seed's prompt for Llama-3.1-8B: a short description, the patient's words, the doctor's answer.
_DOCTOR = """
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{- message.content + '\\n\\n' -}}
{%- elif message.role == 'user' -%}
{%- if message.input -%}
{{- '### Description:\\n' + message.content + '\\n\\n### Patient:\\n' + message.input + '\\n\\n### Doctor:\\n' -}}
{%- else -%}
{{- '### Patient:\\n' + message.content + '\\n\\n### Doctor:\\n' -}}
{%- endif -%}
{%- else -%}
{{- message.content + eos_token + '\\n\\n' -}}
{%- endif -%}
{%- endfor -%}
"""

_TEXT = """
{%- for message in messages -%}
{{- message.content + (eos_token if message.role == 'assistant' else '') -}}
{%- endfor -%}
"""

OWN = {
    "alpaca-ko": (_ALPACA_KO, None),
    "kullm": (_KULLM, KULLM_SYSTEM),
    "doctor": (_DOCTOR, _DOCTOR_SYSTEM),
    "text": (_TEXT, None),
}


def wants_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the model was trained with BOS in front: what the tokenizer itself puts before an ordinary text."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]


def dress(tokenizer: "PreTrainedTokenizerBase", template: str, system: str | None) -> "PreTrainedTokenizerBase":
    """Set the chat template on the tokenizer (in place; returned too), default system message and BOS included.

    Raises RecipeError where `chat` is asked of a tokenizer without a template.
    """
    if template == "chat":
        body, default = tokenizer.chat_template, None
        if not isinstance(body, str):
            raise RecipeError(
                "tokenize.template: chat needs a tokenizer with a chat template, and this base has none; "
                f"choose one of {', '.join(OWN)}"
            )
    else:
        body, default = OWN[template]
        body = body.strip()
    system = system if system is not None else default
    front = ""
    if system is not None:
        front = (
            "{%- if messages[0].role != 'system' -%}{%- set messages = [{'role': 'system', 'content': "
            f"{_jinja_string(system)}}}] + messages -%}}{{%- endif -%}}"
        )
    tokenizer.chat_template = front + body
    probe = [{"role": "user", "content": "a"}]
    if wants_bos(tokenizer) and not render(probe, tokenizer, answer=True).startswith(tokenizer.bos_token):
        tokenizer.chat_template = front + "{{- bos_token -}}" + body
    return tokenizer


def _jinja_string(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def render(messages: list[dict], tokenizer: "PreTrainedTokenizerBase", answer: bool) -> str:
    """The text of a dialogue; `answer` adds what comes before the assistant's next words."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)


def prompt_ids(messages: list[dict], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids that the model sees before it answers: the very ids that stood before the answer in training."""
    return tokenizer(render(messages, tokenizer, answer=True), add_special_tokens=False).input_ids
