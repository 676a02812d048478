"""A loss or a gradient that is not finite: the run stops at that step, names its rows, keeps the last checkpoint."""

import hashlib
from pathlib import Path

import pytest
import torch

from engine.tiny import RECORD, write_tokens
from medtune.engine.batching import PaddingCollator
from medtune.engine.checkpoint import last_checkpoint, mark_complete
from medtune.engine.guard import Batch, Guarded, Watched, broken
from medtune.engine.load import load_model
from medtune.engine.lora import attach
from medtune.params.errors import EngineError
from medtune.params.lora import Lora

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def splits(tiny_base, tmp_path_factory):
    from datasets import load_from_disk

    folder = write_tokens(tiny_base, tmp_path_factory.mktemp("tokens"))

    def named(sample: dict) -> dict:  # ids that differ in their first digits, as real ones do
        return {"row_id": hashlib.sha256(sample["row_id"].encode()).hexdigest()}

    return {name: load_from_disk(folder / name).map(named) for name in ("train", "validation")}


def trainer_of(base: Path, splits: dict, folder: Path, callbacks: tuple = (), **settings: object):
    """A guarded SFTTrainer on the tiny base: batches of 2, one validation every second step."""
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Trainer(Guarded, SFTTrainer):
        pass

    class Mark(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    quantization = {key: RECORD[key] for key in ("quantization", "double_quant", "quant_storage")}
    model = load_model(base, **quantization, device=CPU, dtype=torch.float32)
    model = attach(model, Lora(r=4, alpha=8, targets="all-linear"), 0)
    arguments = {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "save_steps": 1,
        "save_total_limit": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 3,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "bf16": False,
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
        "report_to": [],
        "disable_tqdm": True,
    } | settings
    trainer = Trainer(
        model=model,
        args=SFTConfig(**arguments),
        data_collator=Watched(PaddingCollator(0)),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=AutoTokenizer.from_pretrained(base),
        callbacks=[Mark(), *callbacks],
    )
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return trainer


def spoil(splits: dict, row: int, token: int) -> dict:
    """The splits with one token of one training row changed to `token`."""

    def change(sample: dict, index: int) -> dict:
        ids = list(sample["input_ids"])
        return {"input_ids": [ids[0], token, *ids[2:]] if index == row else ids}

    return splits | {"train": splits["train"].map(change, with_indices=True)}


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def unused_token(trainer, splits: dict) -> int:
    used = {i for split in splits.values() for ids in split["input_ids"] for i in ids}
    return next(i for i in range(1, trainer.model.get_input_embeddings().num_embeddings) if i not in used)  # 0 pads


class Order:
    """What the trainer was given, batch by batch: read from the collator's own record as it is consumed."""

    def __init__(self, watched: Watched):
        self.seen: list[tuple[str, ...]] = []
        consume = watched.consume
        watched.consume = lambda: self.seen.append((batch := consume()).row_ids) or batch


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_row_that_overflows_stops_its_step_and_is_named(tiny_base, splits, tmp_path, accumulation):
    settings = {"gradient_accumulation_steps": accumulation}
    plain = trainer_of(tiny_base, splits, tmp_path / "plain", max_steps=4, save_steps=100, **settings)
    order = Order(plain.data_collator)
    plain.train()
    at = 4 * accumulation - 1  # the last batch of step 4
    victim = order.seen[at][0]

    token = unused_token(plain, splits)
    row = splits["train"]["row_id"].index(victim)
    trainer = trainer_of(tiny_base, spoil(splits, row, token), tmp_path / "spoiled", **settings)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[token] = float("inf")
    with pytest.raises(EngineError, match="loss of step 4 is NaN") as error:
        trainer.train()
    assert [row for row in splits["train"]["row_id"] if row[:12] in str(error.value)] == sorted(
        order.seen[at], key=splits["train"]["row_id"].index
    )
    assert checkpoints(tmp_path / "spoiled") == ["checkpoint-2", "checkpoint-3"]
    assert last_checkpoint(tmp_path / "spoiled").name == "checkpoint-3"
    assert all(entry["step"] < 4 for entry in trainer.state.log_history)


def test_the_run_goes_on_from_the_kept_checkpoint(tiny_base, splits, tmp_path):
    trainer = trainer_of(tiny_base, splits, tmp_path)
    weight = trainer.model.get_input_embeddings().weight
    good = weight.detach().clone()

    from transformers import TrainerCallback

    class Break(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                weight.data.fill_(float("nan"))

    trainer.add_callback(Break())
    with pytest.raises(EngineError, match="step 4"):
        trainer.train()
    weight.data.copy_(good)
    again = trainer_of(tiny_base, splits, tmp_path)
    order = Order(again.data_collator)
    again.train(resume_from_checkpoint=str(last_checkpoint(tmp_path)))
    assert again.state.global_step == 6
    assert len(order.seen) == 3  # steps 4 to 6, and what was skipped was never collated


def test_a_gradient_that_overflows_stops_the_step_that_it_belongs_to(tiny_base, splits, tmp_path):
    """The loss is finite and the gradient is not: a hook of autograd's makes what a bf16 overflow makes."""
    trainer = trainer_of(tiny_base, splits, tmp_path, logging_steps=100, save_steps=3, eval_strategy="no")
    order = Order(trainer.data_collator)
    weight = next(w for w in trainer.model.parameters() if w.requires_grad)
    weight.register_hook(lambda grad: grad * float("inf") if trainer.state.global_step == 1 else grad)
    with pytest.raises(EngineError, match=r"gradient norm of step 2 is (NaN|infinite)") as error:
        trainer.train()
    assert all(row[:12] in str(error.value) for row in order.seen[1])
    assert checkpoints(tmp_path) == []  # step 3, the first that would be saved, was not reached


def test_a_gradient_that_overflows_in_a_step_that_would_be_saved(tiny_base, splits, tmp_path):
    trainer = trainer_of(tiny_base, splits, tmp_path, logging_steps=100, save_steps=2, eval_strategy="no")
    weight = next(w for w in trainer.model.parameters() if w.requires_grad)
    weight.register_hook(lambda grad: grad * float("nan") if trainer.state.global_step == 3 else grad)
    with pytest.raises(EngineError, match="gradient norm of step 4"):
        trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-2"]


def test_a_learning_rate_far_too_high_is_stopped(tiny_base, splits, tmp_path):
    trainer = trainer_of(tiny_base, splits, tmp_path, learning_rate=1e30, lr_scheduler_type="constant", max_steps=12)
    with pytest.raises(EngineError, match=r"step \d+ is (NaN|infinite).*lower train.learning_rate"):
        trainer.train()


def test_counts_leave_validation_out(tiny_base, splits, tmp_path):
    trainer = trainer_of(tiny_base, splits, tmp_path, max_steps=4)
    order = Order(trainer.data_collator)
    trainer.train()
    lengths = dict(zip(splits["train"]["row_id"], map(len, splits["train"]["input_ids"]), strict=True))
    assert trainer.data_collator.tokens == sum(lengths[row] for rows in order.seen for row in rows)
    assert trainer.data_collator.positions == sum(2 * max(lengths[row] for row in rows) for rows in order.seen)
    assert len(order.seen) == 4
    assert not {row for rows in order.seen for row in rows} & set(splits["validation"]["row_id"])


def test_a_packed_batch_names_all_its_rows():
    watched = Watched(lambda samples: {"input_ids": torch.zeros(1, 8)})
    watched([{"input_ids": [1, 2], "row_ids": ["a", "b"]}, {"input_ids": [3], "row_id": "c"}, {"input_ids": [4, 5]}])
    assert watched.consume() == Batch(("a", "b", "c"), 5, 8)
    assert watched.consume() is None


def test_a_long_list_of_rows_is_cut():
    said = str(broken("loss", float("inf"), 7, [f"{n:064d}" for n in range(40)]))
    assert "infinite" in said
    assert "and 24 more" in said
