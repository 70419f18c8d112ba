"""One experiment, one frozen tree of settings, with every default, bound and description.

`experiment_file.load` reads one. What only experiments on a task have is in `task_config.py`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StrictBool,
    Tag,
    model_validator,
)

from distilcli.schema import (
    BelowOne,
    Count,
    Epsilon,
    Fraction,
    InputPath,
    LearningRate,
    Length,
    MaxNorm,
    ModelName,
    Name,
    Number,
    OutputFolder,
    PositiveInt,
    Precision,
    Seconds,
    Section,
    Seed,
    Temperature,
    Tokens,
    Weight,
)
from distilcli.student_config import CopiedStudent, Student, StudentShape


class BaseTeacher(Section):
    """The model whose behaviour the student learns."""

    model: ModelName = Field(description="Folder, hub name or builtin:NAME.")
    revision: str | None = Field(None, description="Hub revision (commit, tag or branch).")
    precision: Precision = Field(
        "auto",
        description="Of the teacher's weights; auto: bf16 where the hardware computes in it.",
    )


class TeacherConfig(BaseTeacher):
    """A teacher with a masked-LM head."""

    offload: bool = Field(
        False,
        description="Keep the teacher's layers in host memory, and each on the device only while "
        "it computes: for a teacher that does not fit beside the student.",
    )


def as_list(value: Any) -> Any:
    """One name as a list of one."""
    return [value] if isinstance(value, str) else value


class FilesSource(Section):
    """Documents in local files; `.gz` is opened by itself."""

    files: Annotated[list[InputPath], BeforeValidator(as_list), Field(min_length=1)] = Field(
        description="Paths or globs, in order."
    )
    format: Literal["auto", "text", "jsonl", "csv", "tsv", "parquet"] = Field(
        "auto", description="auto: by the file name's ending."
    )
    documents: Literal["file", "line", "blank-line"] | None = Field(
        None, description="For text: what one document is. Must be said for text files."
    )
    text_column: str = Field("text", description="Of JSONL, CSV, TSV and Parquet.")


class HubSource(Section):
    """Documents of a data set on the Hugging Face hub, streamed."""

    hub: InputPath = Field(description="Data set name, such as wikimedia/wikipedia.")
    subset: str | None = Field(
        None, description="Configuration of the data set, such as 20231101.en."
    )
    split: str = Field("train", description="Split to read.")
    revision: str | None = Field(None, description="Commit, tag or branch.")
    text_column: str = Field("text", description="Column that holds the text.")


def _source_kind(value: Any) -> str:
    if isinstance(value, dict):
        return "hub" if "hub" in value else "files"
    return "hub" if isinstance(value, HubSource) else "files"


Source = Annotated[
    Annotated[FilesSource, Tag("files")] | Annotated[HubSource, Tag("hub")],
    Discriminator(_source_kind),
]


class DataConfig(Section):
    """Where the text comes from and the token store it becomes."""

    sources: Annotated[list[Source], Field(min_length=1)] = Field(description="Read in order.")
    store: OutputFolder = Field(description="Folder of the token store.")
    max_length: Annotated[Length, Field(ge=8)] = Field(
        128, description="Tokens in a sequence at most, [CLS] and [SEP] included."
    )
    min_length: Annotated[Length, Field(ge=3)] = Field(
        8,
        description="Sequences of fewer tokens, [CLS] and [SEP] included, are dropped and counted.",
    )
    held_out_fraction: Annotated[Number, Field(ge=0.0, lt=1.0)] = Field(
        0.01, description="Share of documents kept out of training, chosen by a hash of their text."
    )
    held_out_sources: list[Source] | None = Field(
        None, description="Held-out documents from sources of their own, instead of a share."
    )
    shard_mib: Annotated[PositiveInt, Field(le=2**16)] = Field(
        8, description="MiB of text that one shard is made of."
    )

    @model_validator(mode="after")
    def _lengths_fit(self) -> "DataConfig":
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is over max_length {self.max_length}")
        return self


class MaskingConfig(Section):
    """Dynamic masking (Devlin et al. 2019, sec. 3.1; Liu et al. 2019, sec. 4.1)."""

    mlm_probability: Annotated[Number, Field(gt=0.0, lt=1.0)] = Field(
        0.15, description="Share of a sequence's ordinary tokens that are chosen."
    )
    mask_share: Fraction = Field(0.8, description="Of the chosen: replaced by [MASK].")
    random_share: Fraction = Field(0.1, description="Of the chosen: replaced by a random token.")
    smoothing: Annotated[Number, Field(ge=0.0, le=2.0)] = Field(
        0.0,
        description="Tokens are chosen with weight count^-smoothing; 0: uniformly; "
        "the DistilBERT release used 0.7.",
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> "MaskingConfig":
        if self.mask_share + self.random_share > 1.0:
            raise ValueError("mask_share + random_share is over 1")
        return self


class SampledPositions(Section):
    """The masked positions and a random share of the others, another in every epoch."""

    sample: Annotated[Number, Field(gt=0.0, lt=1.0)] = Field(
        description="Share of the unmasked positions that joins the masked ones."
    )


def _positions_kind(value: Any) -> str | None:
    if isinstance(value, dict | SampledPositions):
        return "sample"
    return "named" if value in get_args(NamedPositions) else None


NamedPositions = Literal["all", "masked"]
Positions = Annotated[
    Annotated[NamedPositions, Tag("named")] | Annotated[SampledPositions, Tag("sample")],
    Discriminator(
        _positions_kind,
        custom_error_type="positions",
        custom_error_message="must be all, masked or {sample: SHARE}",
    ),
]


class LossConfig(Section):
    """The loss terms and their weights; each term is a mean over its own tokens."""

    temperature: Temperature = Field(2.0, description="T of the soft targets (Hinton et al. 2015).")
    alpha_ce: Weight = Field(
        5.0, description="Weight of the soft targets, T^2 KL(teacher || student)."
    )
    alpha_mlm: Weight = Field(2.0, description="Weight of the masked-LM cross-entropy.")
    alpha_cos: Weight = Field(1.0, description="Weight of 1 - cosine of last hidden states.")
    alpha_mse: Weight = Field(0.0, description="Weight of the mean squared difference of logits.")
    positions: Positions = Field(
        "all",
        description="Tokens that soft targets and logit MSE look at: all, masked, or "
        "{sample: SHARE}, the masked ones and a random share of the others.",
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> "LossConfig":
        if not (self.alpha_ce or self.alpha_mlm or self.alpha_cos or self.alpha_mse):
            raise ValueError("every alpha is 0: there is nothing to learn")
        return self

    @property
    def unmasked_share(self) -> float:
        """Share of the unmasked positions that soft targets and logit MSE look at."""
        if isinstance(self.positions, SampledPositions):
            return self.positions.sample
        return 1.0 if self.positions == "all" else 0.0


class OptimConfig(Section):
    """AdamW, linear warm-up, linear decay to zero. Defaults: the DistilBERT release."""

    lr: LearningRate = Field(5e-4, description="Peak learning rate.")
    betas: tuple[BelowOne, BelowOne] = Field((0.9, 0.98), description="AdamW's betas.")
    eps: Epsilon = Field(1e-6, description="AdamW's epsilon.")
    weight_decay: Weight = Field(
        0.0, description="On matrices and embeddings; never on biases and norms."
    )
    warmup_fraction: Fraction = Field(
        0.05, description="Share of the steps with rising learning rate."
    )
    max_grad_norm: MaxNorm = Field(5.0, description="Global norm to clip to; .inf: not at all.")


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
        description="Passes over the training split, of which every sequence is seen once in each: "
        "what fills no batch at the end of one opens the next, and the last step may be smaller.",
    )
    max_steps: PositiveInt | None = Field(
        None, description="Stop (and decay) at this step instead, in whatever epoch."
    )
    precision: Precision = Field(
        "auto", description="auto: bf16 autocast where the hardware computes in it, else fp32."
    )
    compile: StrictBool = Field(
        False,
        description="Compile the layers of the student, and of a teacher that is not offloaded "
        "(torch.compile).",
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
        2, description="Newest checkpoints to keep; the best one is kept besides."
    )
    timeout_seconds: Seconds = Field(
        1800.0, description="How long processes wait for one that hangs before the run fails."
    )
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        default_factory=list,
        description="Trackers to report to, through accelerate; they are installed with "
        "distilcli[track] and distilcli[wandb].",
    )


class BaseValidation(Section):
    """Held-out validation while training."""

    every: Count = Field(500, description="Steps between validations; 0: only after the last step.")


class ValidationConfig(BaseValidation):
    """Held-out validation of masked-LM training."""

    num_sequences: PositiveInt = Field(1000, description="Held-out sequences to look at, at most.")


class BaseExperiment(Section):
    """What every run has, whatever it trains on."""

    name: Name = Field(description="The run folder is output_dir/name.")
    output_dir: OutputFolder = Field("runs", description="Folder of run folders.")
    seed: Seed = Field(42, description="Of data order, masks, dropout and new weights.")
    teacher: BaseTeacher | None
    student: StudentShape
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    validation: BaseValidation = Field(default_factory=BaseValidation)

    @property
    def run_folder(self) -> Path:
        """Where everything about this run is written."""
        return Path(self.output_dir) / self.name

    @property
    def model_source(self) -> str | None:
        """The model that the student's own section names, if it names one."""
        return self.student.named_model

    @property
    def tokenizer_source(self) -> str:
        """The model whose tokenizer reads the text: the teacher's, else the student's."""
        name = self.teacher.model if self.teacher else self.model_source
        assert name is not None
        return name


class Experiment(BaseExperiment):
    """Everything that one run of masked-LM training depends on."""

    teacher: TeacherConfig | None = Field(
        description="null: no teacher; plain masked-LM training on hard targets."
    )
    student: Student = Field(default_factory=CopiedStudent)
    data: DataConfig
    masking: MaskingConfig = Field(default_factory=MaskingConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    validation: ValidationConfig = Field(default_factory=ValidationConfig)

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        if self.teacher is None and self.model_source is None:
            key = "source" if self.student.kind == "copied" else "like"
            raise ValueError(f"without a teacher, student.{key} must name a model")
        if self.teacher is None and not self.loss.alpha_mlm:
            raise ValueError("without a teacher, loss.alpha_mlm must be above 0")
        if self.train.tokens_per_micro_batch < self.data.max_length:
            raise ValueError(
                f"train.tokens_per_micro_batch {self.train.tokens_per_micro_batch} "
                f"is under data.max_length {self.data.max_length}"
            )
        return self
