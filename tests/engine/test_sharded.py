"""QLoRA + FSDP with two processes on the CPU (gloo): learns as one process does, is killed and gone on with.

What only GPUs show (packed words read as NaN, host memory at 70 B) is asked by benchmarks/sharded.py.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.run_sharded import SENTENCE
from engine.tiny import job, sharded_job, write_tokens
from medtune.engine.launch import check_sharding, process_count
from medtune.engine.load import load_model
from medtune.engine.lora import load_adapter
from medtune.engine.prequantised import mapped_base
from medtune.engine.ranks import Ranks, anonymous_bytes
from medtune.engine.train import run
from medtune.params.errors import EngineError

TESTS = Path(__file__).resolve().parent.parent
ALONE = Ranks(0, 1, torch.device("cpu"))
NF4 = {"quantization": "nf4", "double_quant": True, "quant_storage": "bfloat16"}
SETTINGS = {"eval_steps": 6, "save_steps": 2, "activation_checkpointing": True}


@pytest.fixture(scope="module")
def tokens(tiny_base, tmp_path_factory):
    return write_tokens(tiny_base, tmp_path_factory.mktemp("tokens"), validation=8)  # 2 ranks x 2 batches of 2


@pytest.fixture(scope="module")
def started(tiny_base, tokens, tmp_path_factory):
    """Runs tests/engine/run_sharded.py: (exit status, stdout, stderr, seconds)."""
    cache = tmp_path_factory.mktemp("cache")

    def start(folder: Path, **env: str) -> tuple[int, str, str, float]:
        since = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "engine.run_sharded", tiny_base, tokens, json.dumps(SETTINGS), folder],
            env=os.environ | {"PYTHONPATH": str(TESTS), "MEDTUNE_CACHE": str(cache), "MEDTUNE_PROCESSES": "2"} | env,
            cwd=TESTS.parent, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr, time.monotonic() - since

    return start


@pytest.fixture(scope="module")
def killed(started, tmp_path_factory):
    """A training whose rank 1 is killed before step 3: its folder, how it ended, and whether it left an adapter."""
    folder = tmp_path_factory.mktemp("killed")
    return folder, *started(folder, DIE="3")[:3], (folder / "adapter").exists()


@pytest.fixture(scope="module")
def again(started, killed) -> list[str]:
    """The next start, which goes on with the killed training: what it printed."""
    status, out, err, _ = started(killed[0])
    assert status == 0, err
    return out.splitlines()


@pytest.fixture(scope="module")
def trained(started, tmp_path_factory):
    """A training that nobody disturbed: its folder, what it printed, its figures.

    A start of its own, as every training has: a second process group of one start would meet the addresses that the
    first one left in torchrun's store, and may wait for them for ever.
    """
    folder = tmp_path_factory.mktemp("sharded")
    status, out, err, _ = started(folder)
    assert status == 0, err
    return folder, out, json.loads(out.splitlines()[-1])


def curve(folder: Path) -> list[float]:
    history = [json.loads(line) for line in (folder / "adapter/history.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
def test_learns_as_one_process_with_the_same_samples_a_step(trained, tiny_base, tokens, tmp_path):
    """2 ranks x 2 samples, averaged over all target tokens of the step, are 2 batches of 2 in one process."""
    alone = sharded_job(tiny_base, tokens, tmp_path, sharding="none", gradient_accumulation=2, engine="reference")
    run(alone)
    assert curve(trained[0]) == pytest.approx(curve(tmp_path), abs=2e-4)
    assert curve(trained[0])[-1] < curve(trained[0])[0]


@pytest.mark.slow
def test_rank_0_alone_prints_and_the_words_are_those_of_the_file(trained):
    _, out, figures = trained
    assert [line for line in out.splitlines() if line.startswith("first")] == [f"first {n}" for n in range(6)]
    assert out.count("packed words of the first and last layer are as in the file") == 1
    assert figures["ranks"] == 2
    assert len(figures["per_rank"]) == 2
    counted = [float(line.split()[1]) for line in out.splitlines() if line.startswith("counted")]
    assert counted == pytest.approx([1] * 5, abs=0.25), "the speed is not that of both ranks"


@pytest.mark.slow
def test_the_saved_adapter_is_whole_and_gives_the_same_loss_on_one_device(trained, tiny_base, tokens):
    from datasets import load_from_disk

    folder, _, figures = trained
    weights = load_file(folder / "adapter/adapter_model.safetensors")
    assert len(weights) == 2 * 7 * 2  # layers, linears, A and B
    assert all(w.shape[0 if "lora_A" in name else 1] == 4 and w.any() for name, w in weights.items())
    model = load_model(tiny_base, **NF4, device=torch.device("cpu"), dtype=torch.float32)
    model = load_adapter(model, folder / "adapter", "f" * 64)

    def loss() -> float:
        total, count = 0.0, 0
        for row in load_from_disk(tokens / "validation"):
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
            logits = model(input_ids=ids).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum").item()
            count += int((labels[1:] != -100).sum())
        return total / count

    with torch.no_grad():
        assert loss() == pytest.approx(figures["validation_loss"], abs=1e-5)
        with model.disable_adapter():
            assert abs(loss() - figures["validation_loss"]) > 1e-2, "the adapter changes too little to show anything"


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_next_start_goes_on_to_the_same_adapter(killed, again, trained):
    folder, status, out, err, left = killed
    assert status == 1
    assert "error: rank 1 was ended by SIGKILL" in err
    assert "first 4" not in out
    assert not left
    anew = trained[0]
    assert "going on from checkpoint-2" in again
    assert curve(folder) == curve(anew)
    files = [one / "adapter/adapter_model.safetensors" for one in (folder, anew)]
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files}) == 1


def test_a_rank_that_fails_ends_the_others_with_its_sentence(started, tmp_path):
    status, _, err, seconds = started(tmp_path, DIE="start")
    assert status == 1
    assert err.strip().endswith(f"error: {SENTENCE}")
    assert "Traceback" not in err
    assert seconds < 100, "the other rank sleeps for 300 s and was not ended"


def test_the_mapped_base_has_the_words_of_the_single_device_path(tiny_base, monkeypatch, tmp_path):
    from bitsandbytes.nn import Linear4bit

    monkeypatch.setenv("MEDTUNE_CACHE", str(tmp_path))
    folder = mapped_base(tiny_base, "k", ALONE, dtype=torch.float32, **NF4)
    load = {"device": torch.device("cpu"), "dtype": torch.float32}
    ours, theirs = (load_model(path, **NF4, **load).state_dict() for path in (folder, tiny_base))
    assert set(ours) == set(theirs)
    # as bytes: words that read as NaN are not equal to themselves
    same = [torch.equal(ours[key].view(torch.uint8), theirs[key].view(torch.uint8)) for key in ours]
    assert all(same), [key for key, equal in zip(ours, same, strict=True) if not equal]
    model = load_model(folder, **NF4, **load)
    assert {m.compute_dtype for m in model.modules() if isinstance(m, Linear4bit)} == {torch.float32}
    again = folder.stat().st_mtime_ns
    assert mapped_base(tiny_base, "k", ALONE, dtype=torch.float32, **NF4).stat().st_mtime_ns == again
    with pytest.raises(EngineError, match=r"quant_storage: bfloat16, and base\.quant_storage is uint8"):
        load_model(folder, **(NF4 | {"quant_storage": "uint8"}), **load)


def test_loading_takes_no_private_memory_for_the_weights(tmp_path):
    """Every rank loads the whole base: 35 GiB at 70 B, which must be views of the files."""
    from benchmarks.llama import Shape
    from benchmarks.write_nf4 import write

    write(Shape(hidden=512, layers=8, heads=8, kv_heads=2, ffn=14336, vocab=256), tmp_path)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    load = {"device": torch.device("cpu"), "dtype": torch.bfloat16}
    models = [load_model(tmp_path, **NF4, **load)]  # the first brings the libraries' own memory
    before = anonymous_bytes()
    models.append(load_model(tmp_path, **NF4, **load))
    grown = anonymous_bytes() - before
    assert size > 80 * 2**20
    assert grown < 0.1 * size, f"{grown / 2**20:.0f} MiB private for {size / 2**20:.0f} MiB of weights"
    assert len(models) == 2


def test_what_cannot_be_sharded_is_refused_with_the_mend(tiny_base, tokens, monkeypatch, tmp_path):
    with pytest.raises(EngineError, match=r"paged_adamw_8bit.*adamw_torch"):
        check_sharding(sharded_job(tiny_base, tokens, tmp_path, optimizer="paged_adamw_8bit").train)
    train = sharded_job(tiny_base, tokens, tmp_path).train
    monkeypatch.delenv("MEDTUNE_PROCESSES", raising=False)
    with pytest.raises(EngineError, match=r"sharding: none, or MEDTUNE_PROCESSES=2"):
        process_count(train)
    monkeypatch.setenv("MEDTUNE_PROCESSES", "one")
    with pytest.raises(EngineError, match="'one' and must be a number"):
        process_count(train)
    monkeypatch.setenv("MEDTUNE_PROCESSES", "2")
    assert process_count(train) == 2
    with pytest.raises(EngineError, match=r"start it by `python -m stages\.train`"):
        run(job(tiny_base, tokens, tmp_path, sharding="fsdp", optimizer="adamw_torch"))
    assert not (tmp_path / "checkpoints").exists()
