"""Sentence encoders: a body whose token states are pooled to one vector for each text.

What their folders say beside the model is read and written here, in the files that the package
sentence-transformers has: modules.json, 1_Pooling/config.json, sentence_bert_config.json and
config_sentence_transformers.json. The package itself is not needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from distilcli.batches.packing import PackedSequences
from distilcli.config.embedding import EmbeddingExperiment
from distilcli.config.models import CopiedEncoderStudent
from distilcli.errors import ConfigError, ModelError
from distilcli.files.json_text import to_json
from distilcli.hub.model_files import TOKENIZER_CONFIG, ModelFiles, model_files
from distilcli.models.attention import Packing
from distilcli.models.copying import copy_layers, seeded
from distilcli.models.families import is_encoder, num_positions, without_head
from distilcli.models.layers import layers_of
from distilcli.models.loading import load_masked_lm, read_config
from distilcli.models.narrowing.narrow import Sequences, narrowed
from distilcli.models.running import run_encoder
from distilcli.models.students import set_dropout
from distilcli.tasks.embedding import Reading

MODULES = "modules.json"
_POOLING = "1_Pooling"
_PROMPTS = "config_sentence_transformers.json"
_TRANSFORMER = "sentence_bert_config.json"
_OUR_PROMPT = "text"  # what a prompt of the experiment is called in a student's folder
_ROLES = ("query", "document")  # prompts that the package takes to encode one of these
_PACKAGE = "sentence_transformers.models"
Pooling = Literal["mean", "cls", "max"]
# As older versions of the package write them, which newer ones read.
_MODES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
}


@dataclass(frozen=True)
class Encoding:
    """How a text becomes a vector.

    Attributes:
        pooling: what is made of the states of its tokens.
        normalizes: whether its vector has length 1.
        reading: how it is shown.
        prompts: all that the folder of a student will name.
        default_prompt: the name of the one that stands before every text; None: none does.
    """

    pooling: Pooling
    normalizes: bool
    reading: Reading
    prompts: Mapping[str, str]
    default_prompt: str | None

    @property
    def in_words(self) -> str:
        """For people."""
        length = "vectors of length 1" if self.normalizes else "vectors as they are pooled"
        prompt = f", prompt {self.reading.prompt!r}" if self.reading.prompt else ""
        return f"{self.pooling} pooling, {length}, up to {self.reading.max_length} tokens{prompt}"


@dataclass(frozen=True)
class Folder:
    """What a folder says of how its model is to be used.

    Attributes:
        is_sentence_encoder: whether it is a sentence-transformers folder.
        pooling: None: it does not say.
        normalizes: whether vectors have length 1.
        max_length: tokens of a text at most; None: it does not say.
        lowers: whether letters are made small first.
        prompts: by name.
        default_prompt: name of the one before every text.
        pools_prompts: whether the tokens of a prompt are pooled, too.
    """

    is_sentence_encoder: bool = False
    pooling: Pooling | None = None
    normalizes: bool = False
    max_length: int | None = None
    lowers: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    pools_prompts: bool = True


def read_folder(
    name: str,
    revision: str | None,
    role: str,
    asked: Literal["auto"] | Pooling = "auto",
) -> Folder:
    """What the folder of a model says of pooling, normalisation, length and prompts.

    Args:
        name: folder or hub name.
        revision: of the hub.
        role: what the model is, for messages.
        asked: pooling in place of what the folder says; auto: none.

    Raises:
        ModelError: there is no such model, a file of it is not valid, or it has a module that this
            package cannot compute, such as Dense.
    """
    files = model_files(name, revision, f"{role} {name}")
    modules = files.json_value(MODULES)
    if modules is None:
        return Folder()
    kinds = _kinds_of(modules, files)
    pooling_path = next(path for kind, path in kinds if kind == "Pooling")
    pooling, pools_prompts = _pooling_of(files, f"{pooling_path}/config.json", asked)
    own = files.json_object(_TRANSFORMER) or {}
    said = files.json_object(_PROMPTS) or {}
    prompts = said.get("prompts") or {}
    default = said.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise _not_valid(files, _PROMPTS, "prompts is not an object of texts")
    if default is not None and default not in prompts:
        raise _not_valid(files, _PROMPTS, f"default_prompt_name is {default!r}, no prompt's name")
    return Folder(
        is_sentence_encoder=True,
        pooling=pooling,
        normalizes=any(kind == "Normalize" for kind, _ in kinds),
        max_length=_length_of(files, own),
        lowers=own.get("do_lower_case") is True,
        prompts=prompts,
        default_prompt=default,
        pools_prompts=pools_prompts,
    )


def encoding_of(experiment: EmbeddingExperiment) -> Encoding:
    """How teacher and student make vectors: as the experiment says, else as the teacher's folder.

    Raises:
        ConfigError: task.max_length is over the positions of a model.
        ModelError: see `read_folder`.
    """
    task, teacher = experiment.task, experiment.teacher
    folder = read_folder(teacher.model, teacher.revision, "teacher", task.pooling)
    prompts, default = dict(folder.prompts), folder.default_prompt
    if task.prompt is not None:
        # What stands before queries and documents because it stands before every text goes, too.
        before = "" if default is None else prompts[default]
        general = {name for name in _ROLES if prompts.get(name) == before}
        prompts = {name: text for name, text in prompts.items() if name not in general}
        prompts[_OUR_PROMPT], default = task.prompt, _OUR_PROMPT
    given = task.retrieval
    if given is not None and given.query_prompt is not None:
        prompts["query"] = given.query_prompt
    if given is not None and given.document_prompt is not None:
        prompts["document"] = given.document_prompt
    prompt = prompts[default] if default is not None else ""
    documents = [prompts[name] for name in ("document", "passage", "corpus") if name in prompts]
    reading = Reading(
        prompt=prompt,
        query_prompt=prompts.get("query", prompt),
        document_prompt=documents[0] if documents else prompt,
        lowers=folder.lowers,
        max_length=_longest(experiment, folder),
    )
    if not folder.pools_prompts and any(prompts.values()):
        raise ModelError(
            f"teacher {teacher.model}: it leaves the tokens of prompts out of its vectors "
            f"(include_prompt in {_POOLING}/config.json), which is not supported",
            "Use a model whose prompts are pooled, or one without prompts.",
        )
    return Encoding(
        pooling=(folder.pooling or "mean") if task.pooling == "auto" else task.pooling,
        normalizes=folder.normalizes if task.normalize == "auto" else task.normalize,
        reading=reading,
        prompts=prompts,
        default_prompt=default,
    )


def own_encoding(name: str, encoding: Encoding) -> Encoding:
    """How the vectors of a model are made: as its own folder says, else as those of others are.

    Raises:
        ModelError: see `read_folder`.
    """
    folder = read_folder(name, None, "student")
    if folder.pooling is None:
        return encoding
    return replace(encoding, pooling=folder.pooling, normalizes=folder.normalizes)


def _longest(experiment: EmbeddingExperiment, folder: Folder) -> int:
    """Tokens of a text at most."""
    teacher = experiment.teacher
    named = [(teacher.model, teacher.revision, "teacher")]
    if experiment.model_source is not None:
        named.append((experiment.model_source, None, "student"))
    positions = min(num_positions(read_config(*one)) for one in named)
    asked = experiment.task.max_length
    if asked is None:
        return min(positions, folder.max_length or positions)
    if asked > positions:
        raise ConfigError(
            f"task.max_length {asked} is over the {positions} positions of the models",
            f"Set task.max_length to {positions} or less.",
        )
    return asked


# What the files of a folder say


def _not_valid(files: ModelFiles, name: str, reason: str) -> ModelError:
    return ModelError(
        f"{files.where}: its {name} is not valid ({reason})",
        "Copy or download it again, or name a plain encoder and set task.pooling.",
    )


def _kinds_of(modules: Any, files: ModelFiles) -> list[tuple[str, str]]:
    """Kind and path of each module, in order."""
    try:
        kinds = [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in modules]
    except (TypeError, KeyError):
        raise _not_valid(files, MODULES, "it is no list of modules") from None
    names = [kind for kind, _ in kinds]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        others = [name for name in names if name not in ("Transformer", "Pooling", "Normalize")]
        what = f"a module {others[0]}" if others else f"the modules {', '.join(names) or 'none'}"
        raise ModelError(
            f"{files.where}: it has {what}; Transformer, Pooling and Normalize, in this order, can "
            "be distilled",
            f"Use another teacher. To learn the vectors that are pooled before it, copy the folder "
            f"without its {MODULES} and set task.pooling: it is a plain encoder then.",
        )
    if kinds[0][1] not in ("", "."):
        raise ModelError(
            f"{files.where}: its encoder is in the folder {kinds[0][1]}",
            f"Name that folder as teacher.model, and set task.pooling as {kinds[1][1]} says.",
        )
    return kinds


def _pooling_of(
    files: ModelFiles, name: str, asked: Literal["auto"] | Pooling
) -> tuple[Pooling, bool]:
    """The pooling that is asked for or a folder says, and whether tokens of prompts are pooled."""
    tree = files.json_object(name)
    if tree is None:
        raise _not_valid(files, MODULES, f"there is no {name}")
    said = tree.get("pooling_mode") if asked == "auto" else asked
    if said is None:
        found = [key for key, value in tree.items() if key.startswith("pooling_mode_") and value]
        modes = {key: mode for mode, key in _MODES.items()}
        said = modes.get(found[0], found[0]) if len(found) == 1 else (found or "mean")
    if said not in get_args(Pooling):
        raise ModelError(
            f"{files.where}: its pooling is {said}; mean, cls and max can be distilled",
            "Use another teacher, or set task.pooling to one of them.",
        )
    mode: Any = said
    return mode, tree.get("include_prompt", True) is not False


def _length_of(files: ModelFiles, own: Mapping[str, Any]) -> int | None:
    length = own.get("max_seq_length")
    if length is None:  # newer versions of the package leave it to the tokenizer
        length = (files.json_object(TOKENIZER_CONFIG) or {}).get("model_max_length")
    is_length = isinstance(length, int) and not isinstance(length, bool) and length > 0
    return length if is_length else None


# Models


def load_encoder(name: str, revision: str | None = None, role: str = "student") -> PreTrainedModel:
    """The body of a model, without any head or pooler, in fp32 and eval mode.

    Raises:
        ModelError: it cannot be loaded.
    """
    model = load_masked_lm(name, revision=revision, role=role, needs_head=False)
    return model if is_encoder(model) else without_head(model)


def build_encoder_student(
    experiment: EmbeddingExperiment, teacher: PreTrainedModel, sequences: Sequences
) -> PreTrainedModel:
    """The student as the experiment says it starts: fp32, on the CPU, in eval mode.

    Args:
        experiment: says how.
        teacher: in fp32.
        sequences: texts, which a narrower copy is made by.

    Raises:
        ConfigError: layers that the source does not have, or widths that it cannot be cut to.
        ModelError: the source cannot be used.
    """
    student = experiment.student
    with seeded(experiment.seed):
        if isinstance(student, CopiedEncoderStudent):
            source = teacher
            if student.source is not None:
                source = load_encoder(student.source, role="source")
            copy = copy_layers(source, layers_of(source, student), student.architecture)
            model = narrowed(copy, student, sequences)
        else:
            model = load_encoder(student.model)
    set_dropout(model, student.dropout, student.attention_dropout)
    model.train(False)
    return model


def encode(
    model: PreTrainedModel, batch: PackedSequences, encoding: Encoding
) -> tuple[Float[Tensor, "texts width"], Float[Tensor, "tokens hidden"]]:
    """The vectors of a batch's texts, in fp32, and last hidden states, of a packed model."""
    hidden = run_encoder(model, batch, Packing.of(batch))
    states = hidden.float()
    if encoding.pooling == "cls":
        vectors = states[batch.boundaries[:-1].long()]
    else:
        lengths = batch.boundaries.diff().long()
        # Not checked: to look at the lengths, the host would wait for a GPU.
        vectors = torch.segment_reduce(states, encoding.pooling, lengths=lengths, unsafe=True)
    if encoding.normalizes:
        vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return vectors, hidden


def _prompts_of(encoding: Encoding) -> dict[str, str]:
    """All prompts by name, with those of queries and documents.

    Where a folder does not name these two, `encode_query` and `encode_document` of the package put
    nothing before a text, whatever the default prompt is.
    """
    prompts, reading = dict(encoding.prompts), encoding.reading
    if any((*prompts.values(), reading.query_prompt, reading.document_prompt)):
        prompts.setdefault("query", reading.query_prompt)
        prompts.setdefault("document", reading.document_prompt)
    return prompts


def write_encoder_files(folder: Path, encoding: Encoding, width: int) -> None:
    """Write what makes the folder of a model one of sentence-transformers.

    Args:
        folder: has the model and its tokenizer.
        encoding: how its vectors are made.
        width: of a vector.
    """
    kinds = [("Transformer", ""), ("Pooling", _POOLING)]
    kinds += [("Normalize", "2_Normalize")] if encoding.normalizes else []
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"{_PACKAGE}.{kind}"}
        for index, (kind, path) in enumerate(kinds)
    ]
    modes = {key: mode == encoding.pooling for mode, key in _MODES.items()}
    reading = encoding.reading
    trees: dict[str, Any] = {
        MODULES: modules,
        f"{_POOLING}/config.json": {"word_embedding_dimension": width, **modes},
        _TRANSFORMER: {"max_seq_length": reading.max_length, "do_lower_case": reading.lowers},
        _PROMPTS: {
            "prompts": _prompts_of(encoding),
            "default_prompt_name": encoding.default_prompt,
            "similarity_fn_name": "cosine",
        },
    }
    (folder / _POOLING).mkdir()
    for name, tree in trees.items():
        (folder / name).write_text(to_json(tree, indent=2) + "\n", encoding="utf-8")
