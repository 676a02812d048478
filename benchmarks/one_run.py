"""One training run of a benchmark, through medtune.engine.train.run, in a process of its own.

    python -m benchmarks.one_run SPEC.json

SPEC.json: base (a folder of benchmarks.random_base), out (a folder for the adapter, checkpoints and result.json), lora
and train (the recipe's sections), and at will warm (steps that are not timed), gradients (a file for those of the first
step), kill_at (a step in whose middle the process kills itself) and go_on (from the checkpoints that are there).
result.json holds the clock's figures and the engine's.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = {
    "source": "path",
    "id": "random",
    "revision": None,
    "license": None,
    "fingerprint": "0" * 64,  # hashing 21 GB would tell nothing that the seed of the weights does not
    "quantization": "nf4",
    "double_quant": True,
    "quant_storage": "uint8",
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": TARGETS}  # the seed's, but for its dropout of 0.05
TRAIN = {
    "batch_size": 2,
    "gradient_accumulation": 4,
    "learning_rate": 2e-4,
    "warmup_steps": 1,
    "scheduler": "constant_with_warmup",  # a row with more steps learns the same in its first ones
    "optimizer": "paged_adamw_8bit",
    "save_steps": 1_000_000,
}
KILLED = -signal.SIGKILL


class RunFailed(Exception):
    """The last line that a run wrote before it ended, with where the rest stands."""


def start(spec: dict, timeout: float | None = None) -> dict:
    """Run a spec in its own process and return its result, {} where it killed itself; RunFailed where it failed.

    What an earlier run left in its folder goes first, unless the spec says go_on.
    """
    out = Path(spec["out"])
    if not spec.get("go_on"):
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "spec.json").write_text(json.dumps(spec, indent=1))
    (out / "result.json").unlink(missing_ok=True)
    code = run_module(["benchmarks.one_run", str(out / "spec.json")], out / "log.txt", timeout)
    if "kill_at" in spec and code == KILLED:
        return {}
    return read_result(out, code)


def run_module(module: list[str], log: Path, timeout: float | None = None, environment: dict | None = None) -> int:
    """Exit status of `python -m module…` from the repository's root, everything it says in a file."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"} | (environment or {}),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise RunFailed(f"not done after {timeout:.0f} s; see {log}") from None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def read_result(out: Path, code: int) -> dict:
    """result.json of a run that ended with this status, or RunFailed with the last line of its log."""
    if code or not (out / "result.json").exists():
        lines = [line for line in (out / "log.txt").read_text(errors="replace").splitlines() if line.strip()]
        raise RunFailed(f"{lines[-1].strip() if lines else 'no output'} (status {code}; see {out / 'log.txt'})")
    return json.loads((out / "result.json").read_text())


def make_job(spec: dict):
    """The Job of a spec. The candidate is the folder's name, so that a second start of the same spec goes on."""
    from medtune.engine.train import Job
    from medtune.params.lora import Lora
    from medtune.params.train import Train

    base, out = Path(spec["base"]), Path(spec["out"])
    return Job(
        base=base / "model",
        quantization={key: RECORD[key] for key in ("quantization", "double_quant", "quant_storage")},
        tokens=base / "tokens",
        lora=Lora(**(LORA | spec.get("lora", {}))),
        train=Train(**(TRAIN | spec["train"])),
        sidecar={"candidate": out.name, "base": RECORD, "template": "text", "system": None, "max_length": 512},
        out=out / "adapter",
        checkpoints=out / "checkpoints",
    )


def main(spec_file: Path) -> None:
    from benchmarks.clock import Clock, ceiling
    from medtune.engine.train import run

    spec = json.loads(spec_file.read_text())
    clock = Clock(spec.get("warm", 5))
    callbacks = [clock]
    if "gradients" in spec:
        callbacks.append(_keep_gradients(Path(spec["gradients"])))
    if "kill_at" in spec:
        callbacks.append(_kill_in(spec["kill_at"]))
    figures = run(make_job(spec), callbacks)
    result = clock.report() | {"figures": figures}
    result["ceiling_tflops"] = ceiling()  # at the clocks and temperature that the run left
    result["device"] = figures["device"]
    write_result(Path(spec["out"]), result)


def write_result(out: Path, result: dict) -> None:
    (out / "result.json.tmp").write_text(json.dumps(result, indent=1, default=str))
    (out / "result.json.tmp").replace(out / "result.json")


def _keep_gradients(file: Path):
    """A callback that makes LoRA B non-zero before the first step and saves the gradients after its backward pass.

    B starts at zero, and with it the gradient of A; random values (the same for a name in every run) make both count.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import TrainerCallback

    class KeepGradients(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            for name, weight in _adapter(model):
                if "lora_B" in name:
                    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                    weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.02)

        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            save_file({name: w.grad.detach().float().cpu().contiguous() for name, w in _adapter(model)}, file)

    return KeepGradients()


def _adapter(model):
    """Names (of peft, whatever wraps the model) and trained weights."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield name[name.index("layers.") :].replace(".default", ""), weight


def _kill_in(step: int):
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step + 1 == step:  # gradients are there, the weights have not moved
                os.kill(os.getpid(), signal.SIGKILL)

    return Kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
