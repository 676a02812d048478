"""QLoRA + FSDP on this machine's GPUs, end to end: one JSON line a phase.

    python -m benchmarks.sharded --shape 70b --work /tmp/sharded              # one rank a visible GPU
    python -m benchmarks.sharded --shape tiny --work /tmp/sharded --cpu --ranks 2

write     an NF4 checkpoint of the shape with random weights, and random samples
whole     medtune.engine.train.run under torchrun, with checkpoints, to the end
killed    the same from the start, all ranks ended by SIGKILL in the middle
resumed   gone on with to the end: its losses against those of `whole` (or of `killed`, with --skip-whole)
single    the adapter of `resumed` on one device, by the single-device path: its loss against the sharded one

Per rank: peak allocated and reserved GiB of the GPU, private GiB of host memory at the end. Needs torch, transformers,
peft, accelerate, bitsandbytes, trl, datasets and pydantic; nothing is fetched. Memory of NCCL multicast can be turned
off by NCCL_NVLS_ENABLE=0. Exit status 1 where a loss that must agree does not.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

GIB = 2**30
IGNORED = -100
FINGERPRINT = "0" * 64
QUANTIZATION = {"quantization": "nf4", "double_quant": True, "quant_storage": "bfloat16"}


def main() -> None:
    arguments = _arguments()
    if arguments.role == "rank":
        _rank(arguments)
    elif arguments.role == "single":
        _single(arguments)
    else:
        sys.exit(_drive(arguments))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["70b", "10.7b", "tiny"], default="tiny")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is written (38 GiB at 70b)")
    parser.add_argument("--ranks", type=int, help="processes; default one a visible GPU")
    parser.add_argument("--writers", type=int, help="processes that write the checkpoint; default 5 a rank, 2 on a CPU")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--save-steps", type=int, default=3)
    parser.add_argument("--kill-at", type=int, default=4, help="the step after whose log all ranks are killed")
    parser.add_argument("--batch", type=int, default=4, help="samples a rank and step")
    parser.add_argument("--length", type=int, default=512, help="tokens of a sample")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--rank-of-lora", type=int, default=16)
    parser.add_argument("--offload", action="store_true", help="train.sharding: fsdp_offload (slices in host memory)")
    parser.add_argument("--cpu", action="store_true", help="gloo on the CPU")
    parser.add_argument("--only-whole", action="store_true", help="no kill and no check: speed and memory alone")
    parser.add_argument("--skip-whole", action="store_true", help="compare the resumed run with the killed one's steps")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint, and take one that is there")
    parser.add_argument("--role", choices=["drive", "rank", "single"], default="drive", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="whole", help=argparse.SUPPRESS)
    return parser.parse_args()


def _drive(a: argparse.Namespace) -> int:
    """Run the phases as subprocesses; this process loads no model. Returns the exit status."""
    if a.ranks is None:
        a.ranks = int(subprocess.run([sys.executable, "-c", "import torch; print(torch.cuda.device_count())"],
                                     capture_output=True, text=True, check=True).stdout)  # fmt: skip
    if a.ranks < 2:
        sys.exit("sharding needs two GPUs or more; on a CPU write --cpu --ranks 2")
    a.work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    if not (a.keep and (a.work / "base/config.json").exists()):
        shutil.rmtree(a.work / "base", ignore_errors=True)
        writers = a.writers or (2 if a.cpu else 5 * a.ranks)
        found, status = _torchrun(writers, ["benchmarks.write_nf4", "--shape", a.shape, "--out", str(a.work / "base")])
        written = [line for line in found if line.get("phase") == "write"]
        if status or not written:
            return 1
        gib = sum(line["gib"] for line in written)
        _say("write", gib=round(gib, 3), seconds=round(time.perf_counter() - started, 1), writers=writers)
    write_samples(a)
    for name in ("whole", "broken"):
        shutil.rmtree(a.work / name, ignore_errors=True)

    whole = None if a.skip_whole else _train(a, "whole", "whole")
    if whole is None and not a.skip_whole:
        return 1
    if a.only_whole:
        return 0
    killed_at = time.perf_counter()
    steps, status = _torchrun(a.ranks, _again(a, "rank", "broken"), kill_at=a.kill_at)
    steps = {line["step"]: line["loss"] for line in steps if "step" in line}
    left = sorted(file.parent.name for file in (a.work / "broken/checkpoints").glob("*/checkpoint-*/complete.json"))
    out = (a.work / "broken/adapter").exists()
    _say("killed", status=status, seconds=round(time.perf_counter() - killed_at, 1), checkpoints=left, adapter=out,
         losses=steps)  # fmt: skip
    resumed = _train(a, "resumed", "broken")
    if resumed is None:
        return 1
    known = dict(enumerate(whole["losses"], 1)) if whole else steps
    differences = [abs(loss - resumed["losses"][step - 1]) for step, loss in known.items()]
    found, status = _torchrun(0, _again(a, "single", "broken"))
    single = next((line for line in found if line.get("phase") == "single"), None)
    if single is None:
        return 1
    _say(**single)
    difference = abs(single["loss"] - resumed["validation_loss"])
    agree = max(differences) < 0.02 and difference < 0.02 * max(1.0, resumed["validation_loss"]) and not out
    _say("verdict", agree=agree, resumed_against_whole=max(differences), single_against_sharded=difference,
         base_alone=single["base_loss"], seconds=round(time.perf_counter() - started, 1))  # fmt: skip
    if not a.keep:
        shutil.rmtree(a.work / "base", ignore_errors=True)
    return 0 if agree else 1


def _train(a: argparse.Namespace, phase: str, name: str) -> dict | None:
    started = time.perf_counter()
    found, status = _torchrun(a.ranks, _again(a, "rank", name))
    figures = next((line for line in found if line.get("phase") == "figures"), None)
    if status or figures is None:
        print(f"{phase} failed with exit status {status}", file=sys.stderr)
        return None
    del figures["phase"]
    _say(phase, **figures, wall_seconds=round(time.perf_counter() - started, 1))
    return figures


def _again(a: argparse.Namespace, role: str, name: str) -> list[str]:
    """This module's command line in another role."""
    given = sys.argv[1:]
    return ["benchmarks.sharded", *given, "--role", role, "--name", name]


def _torchrun(count: int, module: list[str], kill_at: int | None = None) -> tuple[list[dict], int]:
    """JSON lines and exit status of `-m module` in `count` processes (0: one, without torchrun). With kill_at all of
    them get SIGKILL once that step has been logged."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count else []
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // max(count, 1))))
    process = subprocess.Popen(
        [sys.executable, *torchrun, "-m", *module], stdout=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    found = []
    for line in process.stdout:
        if line.startswith("{"):
            found.append(json.loads(line))
        else:
            print("   ", line, end="", file=sys.stderr, flush=True)
            if logged := re.match(r"step (\d+)/.*?loss ([\d.]+)", line):
                found.append({"step": int(logged[1]), "loss": float(logged[2])})
        if kill_at and line.startswith(f"step {kill_at}/"):
            # ranks are in torchrun's session but lead groups of their own
            for child in _children(process.pid):
                os.kill(child, signal.SIGKILL)
            process.kill()
    return found, process.wait()


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            child = int(stat.parent.name)
            found += [child, *_children(child)]
    return found


def write_samples(a: argparse.Namespace) -> None:
    """One step's rows of random words, the same at every step: what is learnt of them is the adapter's alone."""
    import random

    from datasets import Dataset

    from benchmarks.llama import BOS, EOS, FIRST_WORD
    from benchmarks.write_nf4 import SHAPES

    draw, vocab = random.Random(0), SHAPES[a.shape].vocab
    rows = [
        [BOS, *(draw.randrange(FIRST_WORD, vocab) for _ in range(a.length - 2)), EOS] for _ in range(a.batch * a.ranks)
    ]
    shutil.rmtree(a.work / "tokens", ignore_errors=True)
    for split, chosen in (("train", rows), ("validation", rows[: 2 * a.ranks])):
        Dataset.from_dict(
            {
                "input_ids": chosen,
                "labels": [[IGNORED, *row[1:]] for row in chosen],
                "row_id": [f"{n:064x}" for n in range(len(chosen))],
            }
        ).save_to_disk(a.work / "tokens" / split)


def _job(a: argparse.Namespace):
    from medtune.engine.train import Job
    from medtune.params.lora import Lora
    from medtune.params.train import Train

    record = {"source": "path", "id": f"random {a.shape}", "revision": None, "license": None} | QUANTIZATION
    train = {
        "sharding": "fsdp_offload" if a.offload else "fsdp",
        "engine": "reference",
        "device": "cpu" if a.cpu else "cuda",
        "batch_size": a.batch,
        "max_steps": a.steps,
        "learning_rate": a.learning_rate,
        "scheduler": "constant",
        "optimizer": "adamw_torch",
        "activation_checkpointing": True,
        "save_steps": a.save_steps,
        "eval_steps": a.steps,
    }
    return Job(
        base=a.work / "base",
        quantization=QUANTIZATION,
        tokens=a.work / "tokens",
        lora=Lora(r=a.rank_of_lora, alpha=2 * a.rank_of_lora, targets="all-linear"),
        train=Train(**train),
        sidecar={"candidate": "c" * 64, "base": record | {"fingerprint": FINGERPRINT}},
        out=a.work / a.name / "adapter",
        checkpoints=a.work / a.name / "checkpoints",
    )


def _rank(a: argparse.Namespace) -> None:
    from transformers import TrainerCallback

    from medtune.engine.train import run

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            self.since = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            if not a.cpu:
                import torch

                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.since)

    job = _job(a)
    figures = run(job, [Clock()])
    if int(os.environ["RANK"]):
        return
    history = [json.loads(line) for line in (job.out / "history.jsonl").read_text().splitlines()]
    tokens = a.batch * a.length * int(os.environ["WORLD_SIZE"])
    line = {
        "ranks": figures["ranks"],
        "device": figures["device"],
        "tokens_per_second": round(tokens / statistics.median(seconds[1:] or seconds), 1),
        "step_seconds": [round(one, 3) for one in seconds],
        "seconds": figures["seconds"],
        "resumed_from_step": figures["resumed_from_step"],
        "losses": [round(entry["loss"], 5) for entry in history if "loss" in entry],
        "validation_loss": figures["validation_loss"],
        "per_rank_gib": [
            {key.removesuffix("_bytes"): round(value / GIB, 2) for key, value in one.items() if value is not None}
            for one in figures["per_rank"]
        ],
    }
    print(json.dumps({"phase": "figures"} | line), flush=True)


def _single(a: argparse.Namespace) -> None:
    """The loss of the validation rows on one device, of the base alone and of base + adapter."""
    import torch
    from datasets import load_from_disk

    from medtune.engine.device import pick_device, pick_dtype
    from medtune.engine.load import load_model
    from medtune.engine.lora import load_adapter

    started = time.perf_counter()
    device = pick_device("cpu" if a.cpu else "cuda")
    dtype = pick_dtype("auto", device)
    model = load_model(a.work / "base", **QUANTIZATION, device=device, dtype=dtype)
    loaded = time.perf_counter()
    model = load_adapter(model, a.work / a.name / "adapter", FINGERPRINT)
    rows = load_from_disk(a.work / "tokens/validation")["input_ids"]

    def loss() -> float:
        found = []
        for row in rows:
            ids = torch.tensor([row], device=device)
            logits = model(input_ids=ids).logits[0, :-1].float()
            found.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item())
        return statistics.mean(found)

    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        with_adapter = loss()
        with model.disable_adapter():
            alone = loss()
    peak = round(torch.cuda.max_memory_allocated(device) / GIB, 2) if device.type == "cuda" else None
    _say("single", loss=with_adapter, base_loss=alone, load_seconds=round(loaded - started, 1), allocated_gib=peak,
         seconds=round(time.perf_counter() - started, 1))  # fmt: skip


def _say(phase: str, **values: object) -> None:
    print(json.dumps({"phase": phase, **values}), flush=True)


if __name__ == "__main__":
    main()
