"""Answers: in batches for the evaluation, greedy or drawn; drawn and streamed for `medtune ask`."""

from typing import TYPE_CHECKING

from medtune.corpus.template import prompt_ids
from medtune.engine.decode import Drawn, Greedy, Sampling, decode
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ON_CPU = 32  # more make a step no faster
MOST = 256  # prompts at once on a GPU: by then a step's time is attention's, which grows with the rows
SPARE = 0.7  # of the GPU's free memory for keys and values; the rest is for what a step makes on the way


def greedy_answers(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: "Sequence[str | list[dict]]",
    max_new_tokens: int,
    batch_size: int | None = None,
    progress: "Callable[[int, int], None] | None" = None,
) -> list[dict]:
    """answer_all with the likeliest token at each step."""
    return answer_all(model, tokenizer, questions, max_new_tokens, batch_size, progress=progress)


def answer_all(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: "Sequence[str | list[dict]]",
    max_new_tokens: int,
    batch_size: int | None = None,
    sampling: Sampling | None = None,
    limits: list[int] | None = None,
    progress: "Callable[[int, int], None] | None" = None,
) -> list[dict]:
    """One {"text", "tokens", "ended"} a question, in order; ended: EOS came within max_new_tokens (EOS counted).

    questions: a user's words, or the messages before the answer. sampling: drawn by it; None: greedy. limits: a bound
    of its own for each question, at most max_new_tokens. batch_size: prompts at once; None: as many as a GPU's free
    memory holds (256 at most), 32 on a CPU. Prompts of similar length share a batch, padded on the left; where the
    GPU's memory runs out all the same, half as many go at once. The tokenizer must be dressed (corpus/template.py).
    Raises EngineError where one prompt alone does not fit.
    """
    prompts = [
        prompt_ids([{"role": "user", "content": question}] if isinstance(question, str) else question, tokenizer)
        for question in questions
    ]
    limits = limits or [max_new_tokens] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), -limits[i]))
    answers: list[dict | None] = [None] * len(prompts)
    start = 0
    while start < len(order):
        size = batch_size or fitting(model, len(prompts[order[start]]) + max_new_tokens)
        indices = order[start : start + size]
        made = _decoded(model, tokenizer, [prompts[i] for i in indices], [limits[i] for i in indices], sampling)
        if made is None:
            if len(indices) == 1:
                raise EngineError(
                    f"the GPU has no room for one prompt of {len(prompts[indices[0]])} tokens and {max_new_tokens} new "
                    "ones; lower evaluate.max_new_tokens, or free the GPU"
                )
            batch_size = max(1, len(indices) // 2)
            print(f"the GPU's memory ran out with {len(indices)} answers at once; going on with {batch_size}")
            continue
        for i, tokens in zip(indices, made, strict=True):
            ended = tokens[-1:] == [tokenizer.eos_token_id]
            words = tokens[:-1] if ended else tokens
            text = tokenizer.decode(words, skip_special_tokens=True).strip()
            answers[i] = {"text": text, "tokens": len(words), "ended": ended}
        start += len(indices)
        if progress:
            progress(start, len(order))
    return answers


def fitting(model: "PreTrainedModel | PeftModel", tokens: int) -> int:
    """How many rows of so many tokens (prompt and answer) go at once: by a GPU's free memory, 32 on a CPU."""
    import torch

    weight = next(model.parameters())
    if weight.device.type != "cuda":
        return ON_CPU
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each = 2 * config.num_hidden_layers * heads * size * torch.finfo(model.dtype).bits // 8
    free, _ = torch.cuda.mem_get_info(weight.device)
    free += torch.cuda.memory_reserved(weight.device) - torch.cuda.memory_allocated(weight.device)
    return max(1, min(MOST, int(SPARE * free / (each * tokens))))


def _decoded(model, tokenizer, prompts: list[list[int]], limits: list[int], sampling) -> list[list[int]] | None:
    """New tokens of each prompt of a batch; None where the GPU's memory ran out."""
    import torch

    device = next(model.parameters()).device
    choice = Drawn(prompts, limits, sampling, device) if sampling else Greedy()
    try:
        return decode(model, prompts, limits, tokenizer.eos_token_id, tokenizer.pad_token_id, choice)
    except torch.cuda.OutOfMemoryError:
        pass  # outside of the handler, which holds the frames and so the batch's tensors
    del choice
    torch.cuda.empty_cache()
    return None


def stream_answer(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", question: str, seed: int | None = None
) -> "Iterator[str]":
    """Pieces of one answer as they come, drawn by the model's own generation_config.json."""
    import threading

    import torch
    from transformers import TextIteratorStreamer, set_seed

    if seed is not None:
        set_seed(seed)
    prompt = torch.tensor([prompt_ids([{"role": "user", "content": question}], tokenizer)], device=model.device)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    failures: list[BaseException] = []

    def generate() -> None:
        try:
            model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), streamer=streamer)
        except BaseException as error:  # handed to the reader below, who would wait for ever otherwise
            failures.append(error)
            streamer.end()

    thread = threading.Thread(target=generate, daemon=True)
    thread.start()
    yield from streamer
    thread.join()
    if failures:
        raise failures[0]
