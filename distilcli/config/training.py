"""Settings of the run: optimiser, batches, checkpoints, validation."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from distilcli.config.fields import (
    BelowOne,
    Count,
    Epsilon,
    Fraction,
    LearningRate,
    MaxNorm,
    PositiveInt,
    Precision,
    Seconds,
    Section,
    Tokens,
    Weight,
)


class OptimConfig(Section):
    """AdamW, linear warm-up, linear decay to zero. Defaults: the DistilBERT release."""

    lr: LearningRate = Field(5e-4, description="Peak learning rate.")
    betas: tuple[BelowOne, BelowOne] = Field((0.9, 0.98), description="AdamW's betas.")
    eps: Epsilon = Field(1e-6, description="AdamW's epsilon.")
    weight_decay: Weight = Field(
        0.0, description="Weight decay of matrices and embeddings; biases and norms have none."
    )
    warmup_fraction: Fraction = Field(
        0.05, description="Share of the steps in which the learning rate rises."
    )
    max_grad_norm: MaxNorm = Field(
        5.0, description="Global norm that the gradient is clipped to; .inf turns clipping off."
    )


class TrainConfig(Section):
    """The batch, the length of the run, and what is written on the way."""

    global_batch_size: Tokens = Field(
        256, description="Sequences in one optimiser step, over all processes and micro-batches."
    )
    tokens_per_micro_batch: Tokens = Field(
        4096, description="Tokens in one forward and backward pass of one process, at most."
    )
    num_epochs: Annotated[PositiveInt, Field(le=10**6)] = Field(
        3,
        description="Passes over the training data, each of which sees every sequence once; a "
        "partial batch at the end of one is completed from the next, and the last step of all may "
        "be smaller.",
    )
    max_steps: PositiveInt | None = Field(
        None,
        description="Optimiser steps of the run, instead of num_epochs; the learning rate decays "
        "over them.",
    )
    max_tokens: Annotated[StrictInt, Field(gt=0, le=10**15)] | None = Field(
        None,
        description="Tokens that the run trains on, instead of num_epochs: its last step is the "
        "first one that reaches them.",
    )
    precision: Precision = Field(
        "auto",
        description="Precision of computing; auto: bf16 autocast where the hardware has it, else "
        "fp32.",
    )
    compile: StrictBool = Field(
        False,
        description="Compile the layers of the student, and of a teacher that is not offloaded "
        "(torch.compile); on a GPU also the losses on logits over the vocabulary.",
    )
    num_workers: Annotated[Count, Field(le=128)] | None = Field(
        None,
        description="Processes of each rank that read and mask ahead; null: 2 on a GPU, else 0.",
    )
    log_every: PositiveInt = Field(
        10, description="Steps between lines in the terminal and trackers."
    )
    save_every: PositiveInt = Field(500, description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt = Field(
        2, description="How many of the newest checkpoints are kept; the best one is kept as well."
    )
    timeout_seconds: Seconds = Field(
        1800.0, description="How long processes wait for one that hangs before the run fails."
    )
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(
        default_factory=list,
        description="Trackers to report to, through accelerate; they are installed with "
        "distilcli[track], distilcli[wandb], distilcli[mlflow] and distilcli[trackio].",
    )
    upload_student: StrictBool = Field(
        False,
        description="Give trackers that keep files a copy of the student at the end; false: they "
        "are told where it lies.",
    )

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if self.max_steps is not None and self.max_tokens is not None:
            raise ValueError(
                "max_steps and max_tokens both say how long the run is; set one of them to null"
            )
        return self

    @property
    def ends_with_epochs(self) -> bool:
        """Whether the run is as long as its epochs."""
        return self.max_steps is None and self.max_tokens is None


class BaseValidation(Section):
    """Held-out validation while training."""

    every: Count = Field(500, description="Steps between validations; 0: only after the last step.")


class ValidationConfig(BaseValidation):
    """Held-out validation of masked-LM training."""

    num_sequences: PositiveInt = Field(
        1000, description="Held-out sequences that are measured on, at most."
    )


class TaskOptim(OptimConfig):
    """AdamW, linear warm-up, linear decay to zero. Defaults: fine-tuning as in BERT's paper."""

    lr: LearningRate = Field(5e-5, description="Peak learning rate.")
    betas: tuple[BelowOne, BelowOne] = Field((0.9, 0.999), description="AdamW's betas.")
    weight_decay: Weight = Field(
        0.01, description="Weight decay of matrices and embeddings; biases and norms have none."
    )
    warmup_fraction: Fraction = Field(
        0.1, description="Share of the steps in which the learning rate rises."
    )
    max_grad_norm: MaxNorm = Field(
        1.0, description="Global norm that the gradient is clipped to; .inf turns clipping off."
    )


class TaskTrain(TrainConfig):
    """The batch, the length of the run, and what is written on the way."""

    global_batch_size: Tokens = Field(
        32, description="Inputs in one optimiser step, over all processes and micro-batches."
    )


class TaskValidation(BaseValidation):
    """Validation on the dev examples while training."""

    every: Count = Field(0, description="Steps between validations; 0: only after the last step.")
