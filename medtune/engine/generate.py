"""Answers: in greedy batches for the evaluation, drawn and streamed for `medtune ask`."""

from typing import TYPE_CHECKING

from medtune.corpus.template import prompt_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def greedy_answers(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: list[str],
    max_new_tokens: int,
    batch_size: int,
    progress: "Callable[[int, int], None] | None" = None,
) -> list[dict]:
    """One {"text", "tokens", "ended"} a question, in order; ended: EOS came before max_new_tokens.

    Prompts of similar length share a batch, padded on the left; the tokenizer must be dressed (corpus/template.py).
    """
    import torch
    from transformers import GenerationConfig

    device = next(model.parameters()).device
    prompts = [prompt_ids([{"role": "user", "content": question}], tokenizer) for question in questions]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    answers: list[dict | None] = [None] * len(prompts)
    # A whole config of its own: the model's file may ask for sampling
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    own, model.generation_config = model.generation_config, settings
    try:
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            longest = max(len(prompts[i]) for i in indices)
            ids = torch.full((len(indices), longest), tokenizer.pad_token_id, device=device)
            mask = torch.zeros_like(ids)
            for n, i in enumerate(indices):
                ids[n, longest - len(prompts[i]) :] = torch.tensor(prompts[i], device=device)
                mask[n, longest - len(prompts[i]) :] = 1
            with torch.inference_mode():
                output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            for n, i in enumerate(indices):
                tokens = output[n, longest:].tolist()
                ended = tokenizer.eos_token_id in tokens
                if ended:
                    tokens = tokens[: tokens.index(tokenizer.eos_token_id)]
                text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
                answers[i] = {"text": text, "tokens": len(tokens), "ended": ended}
            if progress:
                progress(min(start + batch_size, len(order)), len(order))
    finally:
        model.generation_config = own
    return answers


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
