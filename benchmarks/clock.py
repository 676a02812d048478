"""What every training benchmark measures: time between steps, what went through them, memory, the matmul ceiling."""

import gc
import hashlib
import resource
import time

from transformers import TrainerCallback

GIB = 2**30
FIRST = 4  # steps whose samples and mean loss every row tells, for comparison


class Clock(TrainerCallback):
    """Times each step and counts what the collator was given for it, in whatever Trainer it is put into.

    Times are CUDA events, so that the clock itself makes the host wait for nothing. The first `warm` steps (kernels
    are compiled in them) stay out of every figure. Counted are the samples as they come out of the dataset; what the
    collator makes of them must train as many positions, or the run fails.
    """

    def __init__(self, warm: int):
        self.warm = warm
        self.marks: list = []
        self.batches: list[dict] = []
        self.losses: list[tuple[int, float]] = []

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.first_step = state.global_step
        self.accumulation = args.gradient_accumulation_steps
        # accelerate wraps the loader: the inner one fetches, the outer one is asked when a resumed run skips batches
        counted = self._counting(train_dataloader.collate_fn)
        for loader in (train_dataloader, getattr(train_dataloader, "base_dataloader", None)):
            if loader is not None:
                loader.collate_fn = counted

    def on_step_end(self, args, state, control, **kwargs):
        import torch

        if torch.cuda.is_available():
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        else:
            mark = time.perf_counter()
        self.marks.append(mark)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append((state.global_step, float(logs["loss"])))

    def _counting(self, collate):
        def counted(samples):
            batch = collate(samples)
            seen = {"samples": len(samples), "tokens": 0, "targets": 0}
            digests = []
            for sample in samples:
                ids, labels = list(sample["input_ids"]), sample.get("labels")
                seen["tokens"] += len(ids)
                seen["targets"] += sum(label != -100 for label in labels[1:]) if labels is not None else len(ids) - 1
                digests.append(hashlib.sha256(repr([int(i) for i in ids]).encode()).hexdigest())
            if samples[0].get("labels") is not None:
                trained = int((batch["labels"] != -100).sum())
                if trained != seen["targets"]:
                    raise RuntimeError(f"the samples train {seen['targets']} positions and the batch {trained}")
            self.batches.append(seen | {"digests": digests, "places": batch["input_ids"].numel()})
            return batch

        return counted

    def report(self) -> dict:
        """Figures over the steps after the warm-up. batches, ids_of_first: names of the steps' samples."""
        import torch

        if not self.batches:
            raise RuntimeError("no batch went through the collator that was counted; the figures would be empty")

        if torch.cuda.is_available():
            torch.cuda.synchronize()
            milliseconds = [a.elapsed_time(b) for a, b in zip(self.marks, self.marks[1:], strict=False)]
        else:
            milliseconds = [1000 * (b - a) for a, b in zip(self.marks, self.marks[1:], strict=False)]
        timed = milliseconds[max(self.warm - 1, 0) :]
        # a loader fetches a batch ahead, so that the last one may not have been trained on
        batches = self.batches[: len(self.marks) * self.accumulation]
        ours = batches[(len(self.marks) - len(timed)) * self.accumulation :]
        total = {key: sum(batch[key] for batch in ours) for key in ("samples", "tokens", "targets", "places")}
        losses = [loss for step, loss in self.losses if step > self.first_step + self.warm]
        return {
            "steps": len(self.marks),
            "timed_steps": len(timed),
            "tokens_per_second": 1000 * total["tokens"] / sum(timed) if timed else None,
            "ms_per_step": sum(timed) / len(timed) if timed else None,
            "ms_fastest_step": min(timed, default=None),
            "samples": total["samples"],
            "tokens": total["tokens"],
            "target_tokens": total["targets"],
            "padding_share": 1 - total["tokens"] / max(total["places"], 1),
            "loss": sum(losses) / len(losses) if losses else None,
            "losses": self.losses,
            "first_step": self.first_step,
            "batches": [
                self._name(batches[n : n + self.accumulation]) for n in range(0, len(batches), self.accumulation)
            ],
            "ids_of_first": self._name(batches[: FIRST * self.accumulation]),
            **memory(),
        }

    def _name(self, batches: list[dict]) -> str:
        """A short name of the samples in some batches, whatever their order: how a step is cut up is no difference."""
        digests = sorted(digest for batch in batches for digest in batch["digests"])
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:12]


def memory() -> dict:
    """Largest memory of this process: of the GPU as torch allocated and reserved it, of the host."""
    import torch

    found = {"host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
    if torch.cuda.is_available():
        found["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
        found["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
    return found


def ceiling(repeats: int = 20) -> float:
    """TFLOP/s of a square matrix product of random data: 8192 in bf16 on a GPU, 1024 in fp32 on a CPU.

    Called after a run, so that the GPU is as warm as the run made it; what the run left in memory goes first.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)  # a run may have been told to make do with less
    size, dtype, device = (8192, torch.bfloat16, "cuda") if on_gpu else (1024, torch.float32, "cpu")
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn_like(a)
    for _ in range(3):
        a @ b
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    if on_gpu:
        torch.cuda.synchronize()
    return repeats * 2 * size**3 / (time.perf_counter() - started) / 1e12
