"""train: steps, batches, optimizer, checkpoints."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from medtune.params.section import Section


class Train(Section):
    seed: NonNegativeInt = 42
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: PositiveInt
    gradient_accumulation: PositiveInt = 1
    max_steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    learning_rate: PositiveFloat
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: NonNegativeInt = 0
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    optimizer: Literal["paged_adamw_8bit", "adamw_8bit", "adamw_torch", "adamw_torch_fused"] = "paged_adamw_8bit"
    engine: Literal["fast", "reference"] = "fast"
    base_residency: Literal["auto", "nf4", "bf16"] = "auto"
    activation_checkpointing: bool | Literal["auto"] = "auto"
    memory_limit_gib: PositiveFloat | None = None
    packing: bool = False
    sharding: Literal["none", "fsdp", "fsdp_offload"] = "none"
    init: Literal["base"] | PositiveInt = "base"
    logging_steps: PositiveInt = 1
    eval_steps: PositiveInt | None = None
    save_steps: PositiveInt = 50
    keep: Literal["last", "best"] = "last"
    early_stopping_patience: PositiveInt | None = None

    @field_validator("init", mode="before")
    @classmethod
    def _pinned(cls, init: object) -> object:
        if init != "base" and (isinstance(init, bool) or not isinstance(init, int) or init < 1):
            raise ValueError(
                f"{init!r} is neither base nor the number of a version of the registered adapter (an alias would move "
                "under you); `medtune status` names the newest"
            )
        return init

    @model_validator(mode="after")
    def _consistent(self) -> "Train":
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("set one of max_steps and epochs, and leave the other out (or null)")
        if self.max_steps is not None and self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below max_steps ({self.max_steps})")
        if self.early_stopping_patience and not self.eval_steps:
            raise ValueError("early_stopping_patience needs a validation loss: set eval_steps")
        if self.keep == "best":
            if not self.eval_steps:
                raise ValueError("keep: best needs a validation loss: set eval_steps, or keep: last")
            if self.save_steps % self.eval_steps:
                raise ValueError(
                    f"keep: best needs a validation loss at every checkpoint: make save_steps ({self.save_steps}) "
                    f"a multiple of eval_steps ({self.eval_steps})"
                )
        return self
