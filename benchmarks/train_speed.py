"""Speed and memory of training, row by row, each in a process of its own on the same base, samples and order.

    python -m benchmarks.random_base --shape kullm3 --out /tmp/base
    python -m benchmarks.train_speed --base /tmp/base --rows all --unsloth-path WHERE_UNSLOTH_IS --out results

Random weights, so that it needs no hub; at --shape tiny it runs on a CPU. Every row is 8 samples an optimizer step.
Tokens are those of the samples: padding counts for nothing. TFLOP/s are useful ones, 4 N a token (forward and the
gradient of the activations; recomputation is no use), N all of the base's weights. Each row prints what went through
it and its loss: `loss` over the timed steps, `first loss` over the first four, whose samples `data` names: equal names
are equal samples, and rows that learn the same begin with the same loss.
"""

import argparse
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

from benchmarks.clock import FIRST
from benchmarks.one_run import RunFailed, read_result, run_module, start
from benchmarks.random_base import SHAPES, parameters, write_model, write_tokens

ONCE = {"batch_size": 8, "gradient_accumulation": 1}
FAST = {"engine": "fast", "base_residency": "bf16", "activation_checkpointing": False}
# What of a recipe each row sets, apart from benchmarks.one_run's LORA and TRAIN (the seed's, 2 x 4 samples)
ROWS: dict[str, dict] = {
    "reference": {
        "train": {"engine": "reference", "activation_checkpointing": True},
        "lora": {"dropout": 0.05},
    },
    "reference-8": {"train": ONCE | {"engine": "reference", "activation_checkpointing": False}},
    "fast": {"train": FAST},
    "fast-nf4": {
        "train": FAST | {"base_residency": "nf4", "memory_limit_gib": 23.5, "activation_checkpointing": "auto"}
    },
    "fast-small": {
        "train": FAST | {"base_residency": "nf4", "memory_limit_gib": 7.9, "activation_checkpointing": "auto"}
    },
    "fast-auto": {"train": FAST | {"base_residency": "auto", "activation_checkpointing": "auto"}},
    "dropout": {"train": FAST, "lora": {"dropout": 0.05}},
}
UNSLOTH = {  # Unsloth's best for 8 a step is the best of these
    "unsloth": ["--checkpointing", "false", "--data", "labels"],
    "unsloth-text": ["--checkpointing", "false", "--data", "text"],
    "unsloth-ckpt": ["--checkpointing", "unsloth", "--data", "labels"],
    "unsloth-ckpt-text": ["--checkpointing", "unsloth", "--data", "text"],
}
DEFAULT = "seed,reference,fast,fast-nf4,fast-small,dropout,unsloth"
SLOW = ("seed", "reference", "reference-8")
WHAT = {
    "seed": "the seed's recipe: NF4, 2x4 padded, fp32 activations, recomputation, dropout 0.05",
    "reference": "engine: reference, the seed's settings in bf16",
    "reference-8": "engine: reference, 8 padded, no recomputation, no dropout",
    "fast": "engine: fast, dequantised NF4 resident in bf16",
    "fast-nf4": "engine: fast, NF4 resident, told that the GPU has 23.5 GiB (a 24 GB card)",
    "fast-small": "engine: fast, told that the GPU has 7.9 GiB (an 8 GB card)",
    "fast-auto": "engine: fast, everything left to auto",
    "dropout": "engine: fast, bf16, LoRA dropout 0.05",
    "unsloth": "Unsloth, the same masked samples, no recomputation",
    "unsloth-text": "Unsloth, text that it tokenizes itself and trains on in full, no recomputation",
    "unsloth-ckpt": "Unsloth, the same masked samples, its recomputation",
    "unsloth-ckpt-text": "Unsloth, text, its recomputation",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="kullm3", help="of the base, where it is yet to be written")
    parser.add_argument("--base", type=Path, required=True, help="a folder of benchmarks.random_base")
    parser.add_argument("--rows", default=DEFAULT, help="comma-separated; `unsloth` alone runs all its forms; or all")
    parser.add_argument("--steps", type=_steps, default="80:40", help="steps of a row, and after : those not timed")
    parser.add_argument(
        "--slow-steps", type=_steps, default="12:4", help=f"the same, of {', '.join(SLOW)} and Unsloth's"
    )
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a row")
    parser.add_argument("--unsloth-path", help="put in front of PYTHONPATH for Unsloth's rows: it wants an older trl")
    parser.add_argument("--out", type=Path, default=Path("train_speed"), help="specs, logs and results")
    parser.add_argument("--json", type=Path, help="one line a row (default: rows.jsonl in --out)")
    arguments = parser.parse_args()
    names = _rows(arguments.rows, parser)
    if not (arguments.base / "model").exists():
        write_model(SHAPES[arguments.shape], arguments.base / "model")
        write_tokens(SHAPES[arguments.shape], arguments.base / "tokens", 2048)
    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = parameters(arguments.base / "model")
    lines = arguments.json or arguments.out / "rows.jsonl"
    lines.write_text("")
    results = []
    for name in names:
        result = run_row(name, arguments)
        results.append(result)
        with lines.open("a") as file:
            file.write(json.dumps(result) + "\n")
        speed = f"{result['tokens_per_second']:.0f} tok/s" if "error" not in result else f"FAILED: {result['error']}"
        print(f"{name}: {speed} ({result['seconds']:.0f} s)", flush=True)
    text = table(results, weights)
    (arguments.out / "table.md").write_text(text)
    print("\n" + text)


def _steps(text: str) -> tuple[int, int]:
    """STEPS:WARM, both multiples of FIRST."""
    steps, warm = (int(part) for part in text.split(":"))
    if not FIRST <= warm < steps or warm % FIRST or steps % FIRST:
        raise argparse.ArgumentTypeError(f"steps and warm-up are multiples of {FIRST}, and some steps must be timed")
    return steps, warm


def _rows(wanted: str, parser: argparse.ArgumentParser) -> list[str]:
    known = ["seed", *ROWS, *UNSLOTH]
    names = known if wanted == "all" else wanted.split(",")
    if wanted != "all" and "unsloth" in names:
        at = names.index("unsloth")
        names[at : at + 1] = list(UNSLOTH)
    for name in names:
        if name not in known:
            parser.error(f"no row '{name}'; there are {', '.join(known)}")
    return list(dict.fromkeys(names))


def run_row(name: str, arguments: argparse.Namespace) -> dict:
    """One row's figures, or its error's last line: a row that fails does not stop the others."""
    out = (arguments.out / name).resolve()
    base = arguments.base.resolve()
    steps, warm = arguments.slow_steps if name in SLOW or name in UNSLOTH else arguments.steps
    started = time.perf_counter()
    row = {"row": name, "what": WHAT[name]}
    with CardMemory() as card:
        try:
            if name in ROWS:
                settings = ROWS[name]["train"] | {"max_steps": steps, "logging_steps": FIRST}
                spec = {"base": str(base), "out": str(out), "warm": warm, "lora": ROWS[name].get("lora", {})}
                row |= start(spec | {"train": settings}, arguments.timeout)
            else:
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir(parents=True)
                common = ["--base", str(base), "--out", str(out), "--steps", str(steps), "--warm", str(warm)]
                if name == "seed":
                    code = run_module(["benchmarks.seed_row", *common], out / "log.txt", arguments.timeout)
                else:
                    module = ["benchmarks.unsloth_row", *common, *UNSLOTH[name]]
                    code = run_module(module, out / "log.txt", arguments.timeout, _with_unsloth(arguments.unsloth_path))
                row |= read_result(out, code)
        except RunFailed as error:
            row["error"] = str(error)
    return row | {"card_gib": card.peak_gib, "seconds": round(time.perf_counter() - started, 1)}


def _with_unsloth(path: str | None) -> dict[str, str]:
    if not path:
        return {}
    return {"PYTHONPATH": os.pathsep.join([path, *filter(None, [os.environ.get("PYTHONPATH")])])}


class CardMemory:
    """The most memory that the driver saw in use on the first GPU, loading and CUDA's own included; None on a CPU."""

    peak_gib: float | None = None

    def __enter__(self) -> "CardMemory":
        self.process = None
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "500"]
            self.process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.reader = threading.Thread(target=self._read, daemon=True)
            self.reader.start()
        return self

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.peak_gib = max(self.peak_gib or 0.0, int(line) / 1024)

    def __exit__(self, *error) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.reader.join()


def table(results: list[dict], weights: int) -> str:
    """Markdown. Shares are of the highest matrix-product speed that any row of the run measured after its last step."""
    done = [r for r in results if "error" not in r]
    best_ceiling = max((r["ceiling_tflops"] for r in done), default=0.0)
    seed = next((r["tokens_per_second"] for r in done if r["row"] == "seed"), None)
    unsloth = max((r["tokens_per_second"] for r in done if r["row"].startswith("unsloth")), default=None)
    columns = (
        "row | tok/s | ms a step | peak GiB | reserved | card | samples | tokens | targets | loss | first loss | "
        "data | TFLOP/s (4N) | of the ceiling | x seed | x Unsloth"
    )
    lines = [f"| {columns} |", "|---" * (columns.count("|") + 1) + "|"]
    for r in results:
        if "error" in r:
            lines.append(f"| {r['row']} | failed: {r['error'].replace('|', '/')} |" + " |" * columns.count("|"))
            continue
        speed = r["tokens_per_second"]
        useful = 4 * weights * speed / 1e12
        cells = [
            r["row"],
            f"{speed:,.0f}",
            f"{r['ms_per_step']:.0f}",
            _number(r.get("peak_gib"), ".2f"),
            _number(r.get("reserved_gib"), ".2f"),
            _number(r.get("card_gib"), ".1f"),
            f"{r['samples']:,}",
            f"{r['tokens']:,}",
            f"{r['target_tokens']:,}",
            f"{r['loss']:.4f}",
            f"{r['losses'][0][1]:.4f}",
            r["ids_of_first"][:6],
            f"{useful:.1f}" if useful >= 1 else f"{useful:.1e}",
            f"{useful / best_ceiling:.1%}",
            _number(seed and speed / seed, ".2f"),
            _number(unsloth and speed / unsloth, ".2f"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    device = done[0]["device"] if done else "no row ran"
    lines += ["", f"{device}; {weights / 1e9:.2f} B weights; matrix products {best_ceiling:.1f} TFLOP/s at their best."]
    lines += [f"- {r['row']}: {r['what']}" for r in results]
    return "\n".join(lines) + "\n"


def _number(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)


if __name__ == "__main__":
    main()
