"""Time, memory and fidelity of a merge with its certificate, on a base of random weights.

    python -m benchmarks.random_base --shape kullm3 --out /tmp/base
    python -m benchmarks.merge_speed --base /tmp/base --out results

Trains an adapter for a few steps (a high learning rate, so that it moves the answers), then merges it through
medtune.engine.merge.run in a process of its own: loading, folding, saving, loading again and comparing. Prints and
writes merge_speed.json: seconds, peak memory of GPU and host, bytes written, the certificate.
"""

import argparse
import json
import shutil
from pathlib import Path

from benchmarks.one_run import RECORD, read_result, run_module, start, write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("merge_speed"))
    parser.add_argument("--into", choices=["dequantised", "original", "quantised"], default="dequantised")
    parser.add_argument("--engine", choices=["fast", "reference"], default="fast", help="that trains the adapter")
    parser.add_argument("--steps", type=int, default=10, help="of training")
    parser.add_argument("--timeout", type=float, default=500, help="seconds for each of the two")
    parser.add_argument("--keep", action="store_true", help="the merged model (by default only its certificate)")
    parser.add_argument("--work", type=Path, help="where the merged model is written (by default in --out)")
    parser.add_argument("--merge", action="store_true", help=argparse.SUPPRESS)  # inside the second process
    arguments = parser.parse_args()
    base, out = arguments.base.resolve(), arguments.out.resolve()
    work = (arguments.work or arguments.out).resolve()
    if arguments.merge:
        return measure(base, out, work, arguments.into)
    train = {"max_steps": arguments.steps, "learning_rate": 5e-3, "engine": arguments.engine}
    trained = start({"base": str(base), "out": str(out / "adapter"), "train": train, "warm": 0}, arguments.timeout)
    print(
        f"adapter after {arguments.steps} steps: loss {trained['losses'][0][1]:.3f} -> {trained['losses'][-1][1]:.3f}"
    )
    folder = out / "merge"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    module = ["benchmarks.merge_speed", "--merge", "--base", str(base), "--out", str(out), "--into", arguments.into]
    code = run_module([*module, "--work", str(work)], folder / "log.txt", arguments.timeout)
    result = read_result(folder, code) | {"losses_of_training": trained["losses"]}
    (out / "merge_speed.json").write_text(json.dumps(result, indent=1))
    if not arguments.keep:
        shutil.rmtree(work / "merged")
    print(json.dumps({key: value for key, value in result.items() if key != "losses_of_training"}, indent=1))
    return None


def measure(base: Path, out: Path, work: Path, into: str) -> None:
    """The merge itself, and what this process took for it."""
    import torch
    from datasets import load_from_disk

    from benchmarks.clock import memory
    from medtune.engine.merge import MergeJob, run
    from medtune.params.merge import Merge

    job = MergeJob(
        base=base / "model",
        fingerprint=RECORD["fingerprint"],
        quantization={key: RECORD[key] for key in ("quantization", "double_quant", "quant_storage")},
        adapter=out / "adapter/adapter",
        held_out=load_from_disk(str(base / "tokens/validation")),
        merge=Merge(into=into, dtype="bfloat16" if torch.cuda.is_available() else "float16"),
        device="auto",
        version="0" * 64,
        out=work / "merged",
    )
    certificate = run(job)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    write_result(out / "merge", certificate | memory() | {"device": device})


if __name__ == "__main__":
    main()
