"""One batch of prompts to their answers: the loop under medtune/engine/generate.py.

Written out, and not transformers' generate(), for three things that it has not: rows that have ended leave the batch,
every row has a limit of its own, and padding is no word (generate() counts the pad token, which is EOS for many bases,
as one that was said already, so that a repetition penalty keeps padded rows from ending).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

LOOK = 4  # steps between looks at who has ended: each look makes the host wait for the GPU
LEAVE = 0.125  # share of a batch that must have ended before the others are moved together


class Choice(Protocol):
    """How the next token is chosen. Both methods are for the rows still in the batch, in order."""

    def take(self, logits: "torch.Tensor", step: int) -> "torch.Tensor":
        """Token ids (rows,) from fp32 logits (rows, vocabulary)."""

    def keep(self, rows: "torch.Tensor") -> None:
        """Only these rows stay."""


class Greedy:
    """The likeliest token."""

    def take(self, logits: "torch.Tensor", step: int) -> "torch.Tensor":
        return logits.argmax(-1)

    def keep(self, rows: "torch.Tensor") -> None:
        pass


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: the recipe's merge.generation, and a seed."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int = 0


class Drawn:
    """A token drawn as generate() draws it: repetition penalty, temperature, top k, top p, in this order.

    Each row draws by inverse transform from uniform numbers of its own, seeded by its prompt: neither the batch it is
    in nor the other prompts of a set change its answer.
    """

    def __init__(self, prompts: list[list[int]], limits: list[int], sampling: Sampling, device: "torch.device"):
        import hashlib

        import torch

        self.sampling = sampling
        self.said: torch.Tensor | None = None  # (rows, vocabulary): what stands in prompt or answer, padding left out
        self.prompts, self.device = prompts, device
        chances = torch.zeros(len(prompts), max(limits), dtype=torch.float64)
        for n, prompt in enumerate(prompts):
            named = hashlib.sha256(repr((sampling.seed, prompt)).encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(named[:8], "big") >> 1)
            chances[n] = torch.rand(max(limits), dtype=torch.float64, generator=generator)
        self.chances = chances.to(device)

    def take(self, logits: "torch.Tensor", step: int) -> "torch.Tensor":
        import torch

        if self.said is None:
            self.said = torch.zeros(logits.shape, dtype=torch.bool, device=self.device)
            for n, prompt in enumerate(self.prompts):
                self.said[n, torch.tensor(prompt, device=self.device)] = True
        penalty = self.sampling.repetition_penalty
        logits = torch.where(self.said, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
        logits = logits / self.sampling.temperature
        if 0 < self.sampling.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(self.sampling.top_k).values[:, -1:], float("-inf"))
        probabilities, words = logits.softmax(-1).sort(descending=True, stable=True)
        # a word stays while those before it hold less than top_p: the first always does
        before = probabilities.double().cumsum(-1) - probabilities
        probabilities = torch.where(before < self.sampling.top_p, probabilities, 0).double()
        summed = probabilities.cumsum(-1)
        drawn = torch.searchsorted(summed, self.chances[:, step : step + 1] * summed[:, -1:], right=True)
        tokens = words.gather(-1, drawn.clamp(max=words.shape[-1] - 1)).squeeze(-1)
        self.said.scatter_(1, tokens[:, None], True)
        return tokens

    def keep(self, rows: "torch.Tensor") -> None:
        self.chances, self.said = self.chances[rows], self.said[rows]


def decode(
    model: "PreTrainedModel | PeftModel",
    prompts: list[list[int]],
    limits: list[int],
    eos: int,
    pad: int,
    choice: Choice,
) -> list[list[int]]:
    """New token ids of each prompt, at most its limit of them; with EOS at the end where it came in time."""
    import torch
    from transformers import DynamicCache

    device = next(model.parameters()).device
    longest, steps = max(map(len, prompts)), max(limits)
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.ones(len(prompts), longest + steps, dtype=torch.long)  # what is still to come is never padding
    for n, prompt in enumerate(prompts):
        ids[n, longest - len(prompt) :] = torch.tensor(prompt)
        mask[n, : longest - len(prompt)] = 0
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask[:, :longest].cumsum(-1) - 1).clamp(min=0)
    at = positions[:, -1:]
    end = torch.tensor(limits, device=device)
    made = torch.full((len(prompts), steps), eos, device=device)
    rows = torch.arange(len(prompts), device=device)  # of `made`, still in the batch
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    # decoder-only: the inner model of an adapted one has the same config
    cache = DynamicCache(config=model.config)
    with torch.inference_mode(), _narrow_attention():
        for step in range(steps):
            out = model(
                input_ids=ids,
                attention_mask=mask[:, : longest + step],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            tokens = choice.take(out.logits[:, -1].float(), step)
            made[rows, step] = tokens
            done |= (tokens == eos) | (end <= step + 1)
            if (step + 1) % LOOK == 0 or device.type == "cpu":
                left = int((~done).sum())
                if not left:
                    break
                if left <= (1 - LEAVE) * len(rows):
                    staying = (~done).nonzero().flatten()
                    cache.batch_select_indices(staying)
                    choice.keep(staying)
                    mask, at, end, rows, tokens = (x[staying] for x in (mask, at, end, rows, tokens))
                    done = done[staying]
            ids = tokens[:, None]
            at = at + 1
            positions = at
    return [_cut(tokens, limit, eos) for tokens, limit in zip(made.tolist(), limits, strict=True)]


def _cut(tokens: list[int], limit: int, eos: int) -> list[int]:
    """Up to the limit, or to the first EOS before it: a row that has ended runs on for a few steps."""
    tokens = tokens[:limit]
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


@contextmanager
def _narrow_attention() -> Iterator[None]:
    """One new token attends on the key heads as they are.

    Newer transformers do so; older ones copy every key and value head once for each query head that reads it, under a
    mask, in every step: for eight rows of four, the most time of a long decode. The query heads of one key head are
    laid out as if they were as many positions, which is the same product.
    """
    from transformers.integrations import sdpa_attention
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if hasattr(sdpa_attention, "pack_gqa"):
        yield
        return
    import torch.nn.functional as F

    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def narrow(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **settings):
        heads, positions = query.shape[1:3]
        shared = heads == key.shape[1] or (attention_mask is not None and attention_mask.shape[1] != 1)
        if positions != 1 or shared or settings.get("position_bias") is not None:
            return plain(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **settings)
        packed = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
        out = F.scaled_dot_product_attention(packed, key, value, attn_mask=attention_mask, scale=scaling)
        return out.reshape(len(query), 1, heads, -1), None

    ALL_ATTENTION_FUNCTIONS["sdpa"] = narrow  # on this instance, not for the process
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
