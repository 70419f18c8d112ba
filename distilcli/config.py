"""One experiment, one YAML file, one frozen tree: `load(path, overrides)` gives an `Experiment`.

Defaults < file < dotted overrides. Relative paths are relative to the working directory;
`builtin:NAME` names a file or folder that ships inside the package.

    distilcli train --config configs/quickstart.yaml optim.lr=1e-4 student.layers=spread
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    Tag,
    ValidationError,
    model_validator,
)

from distilcli.errors import ConfigError

BUILTIN_PREFIX = "builtin:"
BUILTIN_FOLDER = Path(__file__).parent / "builtin"

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PositiveInt = Annotated[StrictInt, Field(gt=0)]
Count = Annotated[StrictInt, Field(ge=0)]
Precision = Literal["auto", "fp32", "bf16"]
LayerStrategy = Literal["alternate", "spread", "top", "bottom"]


def resolve_path(name: str) -> str:
    """The path that `name` stands for: `builtin:X` is X inside the package, the rest is unchanged."""
    if name.startswith(BUILTIN_PREFIX):
        return str(BUILTIN_FOLDER / name.removeprefix(BUILTIN_PREFIX))
    return name


class Section(BaseModel):
    """Base of every part of the tree: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TeacherConfig(Section):
    """The model whose behaviour the student learns."""

    model: str = Field(description="Folder, hub name or builtin:NAME of a BertForMaskedLM.")
    revision: str | None = Field(None, description="Hub revision (commit, tag or branch).")
    precision: Precision = Field(
        "auto",
        description="Of the teacher's weights; auto: bf16 where the hardware computes in it.",
    )


class _StudentShape(Section):
    dropout: Fraction | None = Field(
        None, description="Of embeddings and layers while training; null: as the source model."
    )
    attention_dropout: Fraction | None = Field(
        None, description="Of attention probabilities while training; null: as the source model."
    )


class CopiedStudent(_StudentShape):
    """A DistilBERT that starts with layers copied from a BERT (Sanh et al. 2019, sec. 3)."""

    kind: Literal["copied"] = "copied"
    num_layers: PositiveInt | None = Field(None, description="Depth; null: half the source's.")
    layers: LayerStrategy | list[Count] = Field(
        "alternate",
        description="Which source layers to copy: a strategy or a list of indices from 0.",
    )
    source: str | None = Field(None, description="BERT to copy from; null: the teacher.")


class CheckpointStudent(_StudentShape):
    """A student that starts as a saved BERT or DistilBERT."""

    kind: Literal["checkpoint"] = "checkpoint"
    model: str = Field(description="Folder, hub name or builtin:NAME of the model to start from.")
    new_head: StrictBool = Field(
        False,
        description="Give a model without a masked-LM head a new one, tied to its embeddings.",
    )


class RandomStudent(_StudentShape):
    """A DistilBERT with random weights, in the shape that `copied` would have."""

    kind: Literal["random"] = "random"
    num_layers: PositiveInt | None = Field(None, description="Depth; null: half of like's.")
    like: str | None = Field(
        None, description="Model that gives widths, vocabulary, tokenizer; null: the teacher."
    )


def _student_kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind", "copied"))
    return str(getattr(value, "kind", "copied"))


Student = Annotated[
    Annotated[CopiedStudent, Tag("copied")]
    | Annotated[CheckpointStudent, Tag("checkpoint")]
    | Annotated[RandomStudent, Tag("random")],
    Discriminator(_student_kind),
]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class FilesSource(Section):
    """Documents in local files; `.gz` is opened by itself."""

    files: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)] = Field(
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

    hub: str = Field(description="Data set name, such as wikimedia/wikipedia.")
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
    store: str = Field(description="Folder of the token store.")
    max_length: Annotated[StrictInt, Field(ge=8)] = Field(
        128, description="Tokens in a sequence at most, [CLS] and [SEP] included."
    )
    min_length: Annotated[StrictInt, Field(ge=3)] = Field(
        8,
        description="Sequences of fewer tokens, [CLS] and [SEP] included, are dropped and counted.",
    )
    held_out_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.01, description="Share of documents kept out of training, chosen by a hash of their text."
    )
    held_out_sources: list[Source] | None = Field(
        None, description="Held-out documents from sources of their own, instead of a share."
    )
    shard_mib: PositiveInt = Field(8, description="MiB of text that one shard is made of.")

    @model_validator(mode="after")
    def _lengths_fit(self) -> "DataConfig":
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is over max_length {self.max_length}")
        return self


class MaskingConfig(Section):
    """Dynamic masking (Devlin et al. 2019, sec. 3.1; Liu et al. 2019, sec. 4.1)."""

    mlm_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.15, description="Share of a sequence's ordinary tokens that are chosen."
    )
    mask_share: Fraction = Field(0.8, description="Of the chosen: replaced by [MASK].")
    random_share: Fraction = Field(0.1, description="Of the chosen: replaced by a random token.")
    smoothing: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        0.0,
        description="Tokens are chosen with weight count^-smoothing; 0: uniformly; "
        "the DistilBERT release used 0.7.",
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> "MaskingConfig":
        if self.mask_share + self.random_share > 1.0:
            raise ValueError("mask_share + random_share is over 1")
        return self


class LossConfig(Section):
    """The loss terms and their weights; each term is a mean over its own tokens."""

    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = Field(
        2.0, description="T of the soft targets (Hinton et al. 2015)."
    )
    alpha_ce: Weight = Field(
        5.0, description="Weight of the soft targets, T^2 KL(teacher || student)."
    )
    alpha_mlm: Weight = Field(2.0, description="Weight of the masked-LM cross-entropy.")
    alpha_cos: Weight = Field(1.0, description="Weight of 1 - cosine of last hidden states.")
    alpha_mse: Weight = Field(0.0, description="Weight of the mean squared difference of logits.")
    positions: Literal["all", "masked"] = Field(
        "all", description="Tokens that soft targets and logit MSE look at."
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> "LossConfig":
        if not (self.alpha_ce or self.alpha_mlm or self.alpha_cos or self.alpha_mse):
            raise ValueError("every alpha is 0: there is nothing to learn")
        return self


class OptimConfig(Section):
    """AdamW, linear warm-up, linear decay to zero. Defaults: the DistilBERT release."""

    lr: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = Field(
        5e-4, description="Peak learning rate."
    )
    betas: tuple[
        Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]
    ] = Field((0.9, 0.98), description="AdamW's betas.")
    eps: Annotated[float, Field(gt=0.0)] = Field(1e-6, description="AdamW's epsilon.")
    weight_decay: Weight = Field(
        0.0, description="On matrices and embeddings; never on biases and norms."
    )
    warmup_fraction: Fraction = Field(
        0.05, description="Share of the steps with rising learning rate."
    )
    max_grad_norm: Annotated[float, Field(gt=0.0)] = Field(
        5.0, description="Global norm to clip to."
    )


class TrainConfig(Section):
    """The batch, the length of the run, and what is written on the way."""

    global_batch_size: PositiveInt = Field(
        256, description="Sequences in one optimiser step, over all processes and micro-batches."
    )
    tokens_per_micro_batch: PositiveInt = Field(
        4096, description="Tokens in one forward and backward pass of one process, at most."
    )
    num_epochs: PositiveInt = Field(3, description="Passes over the training split.")
    max_steps: PositiveInt | None = Field(
        None, description="Stop (and decay) at this step instead."
    )
    precision: Precision = Field(
        "auto", description="auto: bf16 autocast where the hardware computes in it, else fp32."
    )
    log_every: PositiveInt = Field(
        10, description="Steps between lines in the terminal and trackers."
    )
    save_every: PositiveInt = Field(500, description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt = Field(
        2, description="Newest checkpoints to keep; the best one is kept besides."
    )
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        default_factory=list, description="Trackers to report to, through accelerate."
    )


class ValidationConfig(Section):
    """Held-out validation while training."""

    every: Count = Field(500, description="Steps between validations; 0: only after the last step.")
    num_sequences: PositiveInt = Field(1000, description="Held-out sequences to look at, at most.")


class Experiment(Section):
    """Everything that one run depends on."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="The run folder is output_dir/name."
    )
    output_dir: str = Field("runs", description="Folder of run folders.")
    seed: Count = Field(42, description="Of data order, masks, dropout and new weights.")
    teacher: TeacherConfig | None = Field(
        description="null: no teacher; plain masked-LM training on hard targets."
    )
    student: Student = Field(default_factory=CopiedStudent)
    data: DataConfig
    masking: MaskingConfig = Field(default_factory=MaskingConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
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

    @property
    def model_source(self) -> str | None:
        """The model that the student's own section names, if it names one."""
        if isinstance(self.student, CopiedStudent):
            return self.student.source
        if isinstance(self.student, CheckpointStudent):
            return self.student.model
        return self.student.like

    @property
    def tokenizer_source(self) -> str:
        """The model whose tokenizer makes the token store: the teacher's, else the student's."""
        name = self.teacher.model if self.teacher else self.model_source
        assert name is not None
        return name

    @property
    def run_folder(self) -> Path:
        """Where everything about this run is written."""
        return Path(self.output_dir) / self.name


def load(path: Path, overrides: list[str] | None = None) -> Experiment:
    """Read an experiment file and lay `key.sub=value` overrides over it.

    Raises:
        ConfigError: the file is missing or not YAML, an override is malformed, a key is unknown
            (with the nearest valid name) or a value has the wrong type or bound.
    """
    tree = _read_yaml(path)
    for override in overrides or []:
        _apply_override(tree, override)
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_describe(error, path, bool(overrides))) from error


def dump(experiment: Experiment) -> str:
    """The whole tree, defaults included, as YAML that `load` reads back to an equal tree."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", "Give --config an experiment file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{path}{line}: {problem}", "Mend the YAML.") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: an experiment is a mapping of keys, this is not")
    return tree


def _apply_override(tree: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r}: not of the form key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML") from error
    node: Any = tree
    for key in keys[:-1]:
        node = _child(node, key, override)
    if isinstance(node, list):
        node[_index(node, keys[-1], override)] = value
    else:
        node[keys[-1]] = value


def _child(node: Any, key: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, override)]
    if node.get(key) is None:
        node[key] = {}
    if not isinstance(node[key], (dict, list)):
        raise ConfigError(f"override {override!r}: {key} has no keys below it")
    return node[key]


def _index(node: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(node):
        raise ConfigError(f"override {override!r}: {key!r} is not an index below {len(node)}")
    return int(key)


def _describe(error: ValidationError, path: Path, overridden: bool) -> str:
    first = error.errors()[0]
    location = _without_tags(first["loc"])
    dotted = ".".join(str(part) for part in location)
    file = f"{path} (with overrides)" if overridden else str(path)
    where = f"{file}: {dotted}" if dotted else file
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(
            str(location[-1]), _sibling_names(first["loc"]), n=1, cutoff=0.5
        )
        return f"{where}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    if first["type"] == "missing":
        return f"{where}: this key is required"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float, bool, type(None))) else ""
    return f"{where}: {message}{shown}"


_TAGS = {"copied": CopiedStudent, "checkpoint": CheckpointStudent, "random": RandomStudent}
_SOURCE_TAGS: dict[str, type[Section]] = {"files": FilesSource, "hub": HubSource}


def _without_tags(location: tuple[int | str, ...]) -> list[int | str]:
    """Drop the union tags that pydantic puts into a location."""
    kept: list[int | str] = []
    for part in location:
        after_index = bool(kept) and isinstance(kept[-1], int)
        if (kept == ["student"] and part in _TAGS) or (after_index and part in _SOURCE_TAGS):
            continue
        if isinstance(part, str) and ("[" in part or part in ("list", "int")):
            continue
        kept.append(part)
    return kept


def _sibling_names(location: tuple[int | str, ...]) -> list[str]:
    """The valid keys beside the one at `location`."""
    model: type[BaseModel] = Experiment
    for part in location[:-1]:
        if part in _TAGS:
            model = _TAGS[str(part)]
        elif part in _SOURCE_TAGS and part not in model.model_fields:
            model = _SOURCE_TAGS[str(part)]
        elif isinstance(part, str) and part in model.model_fields:
            model = _section_of(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
