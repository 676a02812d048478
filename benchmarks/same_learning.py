"""Whether the fast engine learns what the reference learns: loss curves, gradients, and a run that was killed.

    python -m benchmarks.random_base --shape small --out /tmp/small
    python -m benchmarks.random_base --shape kullm3 --out /tmp/base
    python -m benchmarks.same_learning --base /tmp/small --full-base /tmp/base --out results

- curves: both engines from the same seed over --steps steps on --base. Held: each loss within 1%, and so the mean of
  each ten.
- gradients: of one optimizer step on --full-base, with a LoRA B that is not zero, so that A has a gradient too. Judged
  against the same step computed in fp32 (on the same NF4 weights): how far bf16 takes the reference from it is the
  tolerance, and the reference batched otherwise shows how much of that is mere rounding. Held: the fast engine's median
  and worst relative error are at most 1.5 times the reference's (and 1e-5, which is fp32's own rounding).
- resume: the fast engine killed by SIGKILL in the middle of a step and started again, against a run left alone. Held:
  it goes on with the very samples, and each loss is within 1%. A third run, left alone too, shows how far two runs of
  the same seed part by themselves.

Writes same_learning.json and same_learning.png. On a CPU everything is fp32 and the tolerances are the same.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from benchmarks.one_run import RunFailed, start

PARTS = ("curves", "gradients", "resume")
WITHIN, SMOOTH = 0.01, 10
REFERENCE = {"engine": "reference", "activation_checkpointing": False}
FAST = {"engine": "fast"}
ONCE = {"batch_size": 8, "gradient_accumulation": 1}
ONE_STEP = {"max_steps": 1, "warmup_steps": 0, "scheduler": "constant", "max_grad_norm": 1e9}
GRADIENTS = {
    "fp32": ONCE | REFERENCE | {"dtype": "float32", "activation_checkpointing": True},
    "reference": REFERENCE | {"activation_checkpointing": True},
    "reference, 8 at once": ONCE | REFERENCE | {"activation_checkpointing": True},
    "fast, nf4": FAST | {"base_residency": "nf4"},
    "fast, bf16": FAST | {"base_residency": "bf16"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="for curves and resume")
    parser.add_argument("--full-base", type=Path, help="for gradients; by default --base")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--steps", type=int, default=200, help="of the curves")
    parser.add_argument("--resume-steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a run")
    parser.add_argument("--out", type=Path, default=Path("same_learning"))
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    report: dict = {}
    for part in parts:
        try:
            report[part] = {"curves": curves, "gradients": gradients, "resume": resume}[part](arguments)
        except RunFailed as error:
            report[part] = {"held": False, "error": str(error)}
        (arguments.out / "same_learning.json").write_text(json.dumps(report, indent=1))
        shown = {key: value for key, value in report[part].items() if not isinstance(value, list)}
        print(part, json.dumps(shown, indent=1), flush=True)
    plot(report, arguments.out / "same_learning.png")
    if not all(report[part]["held"] for part in parts):
        sys.exit(1)


def curves(arguments: argparse.Namespace) -> dict:
    """Loss of every step in both engines and their largest relative difference, one by one and ten by ten."""
    common = {"max_steps": arguments.steps, "learning_rate": arguments.learning_rate, "optimizer": "adamw_torch"}
    runs = {name: _run(arguments, name, common | how) for name, how in (("reference", REFERENCE), ("fast", FAST))}
    losses = {name: [loss for _, loss in run["losses"]] for name, run in runs.items()}
    difference = _largest(losses["fast"], losses["reference"])
    smoothed = _largest(_smooth(losses["fast"]), _smooth(losses["reference"]))
    same = runs["fast"]["ids_of_first"] == runs["reference"]["ids_of_first"]
    return {
        "held": same and difference <= WITHIN and smoothed <= WITHIN,
        "same_samples": same,
        "largest_difference": difference,
        "largest_difference_of_ten": smoothed,
        "first_loss": losses["reference"][0],
        "last_loss": {name: _smooth(values)[-1] for name, values in losses.items()},
        "tokens_per_second": {name: run["tokens_per_second"] for name, run in runs.items()},
        "reference": losses["reference"],
        "fast": losses["fast"],
    }


def gradients(arguments: argparse.Namespace) -> dict:
    """Relative error and cosine of every LoRA tensor's gradient against fp32, for each way to compute the step."""
    import torch
    from safetensors.torch import load_file

    base = arguments.full_base or arguments.base
    found, errors, memory = {}, {}, {}
    for name, how in GRADIENTS.items():
        file = arguments.out / f"gradients-{name.replace(', ', '-').replace(' ', '-')}.safetensors"
        try:
            run = _run(arguments, f"gradients {name}", ONE_STEP | how, base=base, gradients=str(file), warm=0)
        except RunFailed as error:
            errors[name] = str(error)
            continue
        found[name], memory[name] = load_file(file), run.get("peak_gib")
        file.unlink()
    if missing := {"fp32", "reference"} - set(found):
        raise RunFailed("; ".join(f"{name}: {errors[name]}" for name in missing))
    truth = found.pop("fp32")
    against: dict[str, dict] = {}
    for name, tensors in found.items():
        if tensors.keys() != truth.keys():
            raise RunFailed(f"{name} has gradients of other tensors than fp32: {set(tensors) ^ set(truth)}")
        rows = []
        for key, want in truth.items():
            got = tensors[key].double().flatten()
            want = want.double().flatten()
            cosine = torch.nn.functional.cosine_similarity(got, want, dim=0)
            rows.append((float((got - want).norm() / want.norm()), float(cosine), float(got.norm() / want.norm()), key))
        by_error = sorted(rows)
        against[name] = {
            "tensors": len(rows),
            "relative_error": {"median": by_error[len(rows) // 2][0], "worst": by_error[-1][0], "in": by_error[-1][3]},
            "cosine": {"median": sorted(r[1] for r in rows)[len(rows) // 2], "worst": min(r[1] for r in rows)},
            "norm_difference": {"worst": max(abs(r[2] - 1) for r in rows)},
            "peak_gib": memory[name],
        }
    bound = {key: 1.5 * against["reference"]["relative_error"][key] + 1e-5 for key in ("median", "worst")}
    fast = [name for name in against if name.startswith("fast")]
    held = len(fast) == 2 and all(
        against[name]["relative_error"][key] <= bound[key] for name in fast for key in ("median", "worst")
    )
    return {"held": held, "bound": bound, "against_fp32": against, "errors": errors}


def resume(arguments: argparse.Namespace) -> dict:
    """Largest relative difference of the losses of a killed and resumed run and of one that was left alone."""
    steps = arguments.resume_steps
    kill_at = steps * 5 // 8  # not a step at which a checkpoint was written
    common = FAST | {
        "max_steps": steps,
        "learning_rate": arguments.learning_rate,
        "save_steps": max(steps // 4, 1),
    }
    whole = _run(arguments, "whole", common, warm=0)
    again = _run(arguments, "again", common, warm=0)
    _run(arguments, "killed", common, warm=0, kill_at=kill_at)
    resumed = _run(arguments, "killed", common, warm=0, go_on=True)
    history = arguments.out / "killed/adapter/history.jsonl"
    losses = [entry["loss"] for entry in map(json.loads, history.read_text().splitlines()) if "loss" in entry]
    alone, twice = ([loss for _, loss in run["losses"]] for run in (whole, again))
    after = resumed["first_step"]
    same = resumed["batches"] == whole["batches"][after:]
    difference = _largest(losses, alone)
    return {
        "held": 0 < after < kill_at and same and difference <= WITHIN and len(losses) == len(alone),
        "killed_in_step": kill_at,
        "went_on_after_step": after,
        "same_samples": same,
        "largest_difference": difference,
        "largest_difference_of_two_left_alone": _largest(twice, alone),
        "equal_to_the_bit": losses == alone,
        "whole": alone,
        "again": twice,
        "killed": losses,
    }


def _run(arguments: argparse.Namespace, name: str, train: dict, base: Path | None = None, **more) -> dict:
    folder = arguments.out / name.replace(", ", "-").replace(" ", "-")
    spec = {"base": str((base or arguments.base).resolve()), "out": str(folder), "train": train} | more
    print(f"{name} …", file=sys.stderr, flush=True)
    return start(spec, arguments.timeout)


def _smooth(values: list[float]) -> list[float]:
    return [sum(values[n : n + SMOOTH]) / SMOOTH for n in range(0, len(values) - SMOOTH + 1)] or values


def _largest(ours: list[float], theirs: list[float]) -> float:
    """Largest |ours / theirs - 1|; infinite where one is no number or the lengths differ."""
    if len(ours) != len(theirs) or not all(map(math.isfinite, ours + theirs)):
        return math.inf
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def plot(report: dict, file: Path) -> None:
    """The curves as far as there are any: losses above, relative differences below."""
    pairs = [(part, *names) for part, names in (("curves", ("reference", "fast")), ("resume", ("whole", "killed")))]
    pairs = [pair for pair in pairs if pair[1] in report.get(pair[0], {})]
    if not pairs:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(pairs), figsize=(7 * len(pairs), 6), squeeze=False, sharex="col")
    for column, (part, one, other) in enumerate(pairs):
        a, b = report[part][one], report[part][other]
        above, below = axes[0][column], axes[1][column]
        above.plot(range(1, len(a) + 1), a, label=one)
        above.plot(range(1, len(b) + 1), b, label=other, linestyle="--")
        above.set(title=part, ylabel="loss a target token (nats)")
        above.legend()
        below.plot(range(1, 1 + min(len(a), len(b))), [100 * (y - x) / x for x, y in zip(a, b, strict=False)])
        below.axhline(0, color="grey", linewidth=0.5)
        below.set(xlabel="step", ylabel=f"{other} against {one} (%)")
        if part == "resume":
            for axis in (above, below):
                axis.axvline(report[part]["killed_in_step"], color="red", linewidth=0.8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
