"""Models of any architecture of transformers with a head for a task, run on padded batches.

What this package packs is in `families/`. A teacher of a task need not be one of those: it is built
by transformers' own class for its head, and runs as transformers runs it.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from distilcli.config.fields import MAX_LAYERS
from distilcli.errors import ModelError
from distilcli.hub.model_files import (
    CONFIG,
    COPY_AGAIN,
    ModelFiles,
    first_line,
    invalid_config,
    model_files,
)
from distilcli.models.configuration import config_of, refuse_use, usable_values
from distilcli.models.families import FAMILIES, num_positions
from distilcli.models.loading import check_finite, from_weights
from distilcli.models.weights import OTHER_CONFIG, read_weights
from distilcli.tasks.inputs import Inputs
from distilcli.tasks.outputs import Head

# The classes that transformers has for each head, by model type.
CLASSES: dict[Head, dict[str, str]] = {
    "sequence": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "span": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
}
_HEADS: dict[Head, str] = {
    "sequence": "that classifies sequences",
    "token": "that tags tokens",
    "span": "that finds answers",
}
_UNLIMITED = 10**9  # transformers writes 10^30 where a tokenizer does not say


def is_packed(name: str, revision: str | None, role: str) -> bool:
    """Whether a model is of a family that this package runs packed.

    A model without a type is said to be: loading it says what is wrong.

    Raises:
        ModelError: there is no such model, or its config.json cannot be read.
    """
    tree = model_files(name, revision, f"{role} {name}").json_object(CONFIG) or {}
    return tree.get("model_type") in (None, *FAMILIES)


def any_config(files: ModelFiles) -> Any:
    """The configuration of a model of any type that transformers has.

    Raises:
        ModelError: it is not valid, of no such type, quantized, or a decoder.
    """
    tree = files.json_object(CONFIG) or {}
    model_type = tree.get("model_type")
    if model_type in (None, *FAMILIES):
        return config_of(files)
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"{files.where}: its model_type is {model_type}, which transformers "
            f"{transformers.__version__} does not have",
            "Use a model whose code is a part of transformers: code that comes with a model is "
            "not run.",
        )
    refuse_use(tree, files.where)
    # Of those that once took other positions, transformers 5 computes none: see `check_positions`.
    if str(tree.get("position_embedding_type")).startswith("relative"):
        raise ModelError(
            f"{files.where}: position_embedding_type is {tree['position_embedding_type']}, which "
            "transformers does not compute any more",
            "Use a model with absolute positions.",
        )
    depth = tree.get("num_hidden_layers", 1)
    if isinstance(depth, bool) or not isinstance(depth, int) or not 0 < depth <= MAX_LAYERS:
        raise invalid_config(
            files.where, f"num_hidden_layers is {depth!r}, not a whole number up to {MAX_LAYERS}"
        )
    try:
        return transformers.CONFIG_MAPPING[model_type].from_dict(usable_values(tree))
    except Exception as error:  # what transformers raises here shares no base class
        raise invalid_config(files.where, first_line(error)) from error


def load_padded(name: str, revision: str | None, head: Head, role: str) -> PreTrainedModel:
    """A model with a head for a task that it was trained with, in fp32 and eval mode.

    Args:
        name: folder, hub name or builtin:NAME.
        revision: hub revision.
        head: where its outputs are read.
        role: what the model is for; it opens every error message.

    Raises:
        ModelError: it cannot be loaded, or has no such head.
    """
    where = f"{role} {name}"
    files = model_files(name, revision, where)
    config = any_config(files)
    model_class = _class_of(config, head, where)
    weights = read_weights(files)
    _check_shapes(model_class, config, weights, where)
    model, info = from_weights(model_class, config, weights, torch.float32, where)
    model.config.name_or_path = name
    body = f"{model.base_model_prefix}."
    missing = {str(key) for key in info["missing_keys"]}
    of_body = {key for key in missing if key.startswith(body)}
    if of_body:
        raise ModelError(
            f"{where}: {len(of_body)} weights of its body are missing, {min(of_body)} first",
            COPY_AGAIN,
        )
    if missing:
        raise ModelError(
            f"{where}: it has no head for this task ({min(missing)} is missing)",
            f"Use a model that was fine-tuned for the task, of class {model_class.__name__}.",
        )
    unknown = [key for key in info["unexpected_keys"] if _is_of_layer(key, body)]
    unknown += [str(key) for key, *_ in info["mismatched_keys"]]
    if unknown:
        raise ModelError(f"{where}: config.json does not account for {min(unknown)}", OTHER_CONFIG)
    check_finite(model, where)
    found: PreTrainedModel = model
    return found


def _class_of(config: Any, head: Head, where: str) -> Any:
    """transformers' class of a model of this type with a head; ModelError where there is none."""
    name = CLASSES[head].get(config.model_type)
    if name is None:
        raise ModelError(
            f"{where}: transformers has no {config.model_type} {_HEADS[head]}",
            "Use a teacher of another type.",
        )
    purpose = name[name.rindex("For") :]
    saved_as = [one for one in config.architectures or [] if "For" in one]
    if saved_as and not any(one == name or one.endswith(purpose) for one in saved_as):
        # Heads of several tasks may have weights of the same names and shapes.
        raise ModelError(
            f"{where}: its class is {saved_as[0]}, and this task needs {name}",
            "Use a model that was fine-tuned for the task.",
        )
    return getattr(transformers, name)


def _check_shapes(model_class: Any, config: Any, weights: dict[str, Tensor], where: str) -> None:
    """Compare the sizes in config.json with the weights before memory is taken for them."""
    try:
        with torch.device("meta"):
            built = model_class(config)
    except Exception as error:  # whatever a configuration may lead to
        raise invalid_config(where, first_line(error)) from error
    for name, tensor in built.state_dict().items():
        if name in weights and weights[name].shape != tensor.shape:
            raise ModelError(
                f"{where}: {name} is {list(weights[name].shape)}, but config.json makes it "
                f"{list(tensor.shape)}",
                OTHER_CONFIG,
            )


def _is_of_layer(key: str, body: str) -> bool:
    """Whether a weight is, by its name, of a numbered layer of the body."""
    return key.startswith(body) and any(part.isdigit() for part in key.split("."))


def longest_text(model: PreTrainedModel, tokenizer: Any) -> int | None:
    """Tokens that a model takes at most; None: there is no limit."""
    limits = [tokenizer.model_max_length]
    if model.config.model_type in FAMILIES:
        limits.append(num_positions(model.config))
    else:
        limits.append(getattr(model.config, "max_position_embeddings", None) or _UNLIMITED)
        limits += [table.num_embeddings - _num_unread(table) for table in _positions(model)]
    shortest = min(limit for limit in limits if limit > 0)
    return int(shortest) if shortest < _UNLIMITED else None


class Filling(NamedTuple):
    """How batches are made, as a tokenizer says it.

    Attributes:
        padding: id that fills up.
        on_left: whether it does so before the tokens.
        with_types: whether the model is given the type of each token.
    """

    padding: int
    on_left: bool
    with_types: bool


def num_embeddings(model: PreTrainedModel) -> int:
    """Tokens that a model has an embedding for."""
    words: Any = model.get_input_embeddings()
    return len(words.weight)


def begins_after_padding(model: PreTrainedModel) -> bool:
    """Whether positions are counted from the padding token: where ids are the same as its id."""
    return any(_num_unread(table) for table in _positions(model))


def _positions(model: PreTrainedModel) -> list[nn.Embedding]:
    """Tables of positions."""
    return [
        table
        for name, table in model.named_modules()
        if "position" in name.rpartition(".")[2] and isinstance(table, nn.Embedding)
    ]


def _num_unread(table: nn.Embedding) -> int:
    """Rows of a table of positions that are never read, as positions begin after the padding."""
    return 0 if table.padding_idx is None else table.padding_idx + 1


def padded_batch(
    model: PreTrainedModel, inputs: Inputs, samples: Sequence[int], filling: Filling
) -> dict[str, Tensor]:
    """A batch as transformers takes it, filled up to its longest input.

    Args:
        model: which of the ids, the mask and the types it takes.
        inputs: what they are taken from.
        samples: their indices.
        filling: how.
    """
    longest = int(inputs.lengths[list(samples)].max())
    batch = {
        "input_ids": torch.full((len(samples), longest), filling.padding),
        "attention_mask": torch.zeros((len(samples), longest), dtype=torch.long),
        "token_type_ids": torch.zeros((len(samples), longest), dtype=torch.long),
    }
    for row, sample in enumerate(samples):
        begin, end = inputs.offsets[sample : sample + 2]
        first = longest - int(end - begin) if filling.on_left else 0
        place = slice(first, first + int(end - begin))
        batch["input_ids"][row, place] = torch.from_numpy(inputs.token_ids[begin:end]).long()
        batch["token_type_ids"][row, place] = torch.from_numpy(inputs.token_types[begin:end]).long()
        batch["attention_mask"][row, place] = 1
    if not filling.with_types:
        del batch["token_type_ids"]
    taken = inspect.signature(model.forward).parameters
    return {name: tensor for name, tensor in batch.items() if name in taken}


def padded_rows(
    model: PreTrainedModel, head: Head, inputs: Inputs, samples: Sequence[int], filling: Filling
) -> list[Tensor]:
    """Outputs of some inputs where they are read, fp32 [rows, outputs] each.

    Args:
        model: runs them in one batch.
        head: where outputs are read.
        inputs: tokens of the model's own tokenizer.
        samples: their indices.
        filling: how the batch is made.
    """
    batch = padded_batch(model, inputs, samples, filling)
    found = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
    if head == "span":
        values = torch.stack([found.start_logits, found.end_logits], dim=-1).float()
    else:
        values = found.logits.float()
    if head == "sequence":
        return list(values[:, None])
    longest = batch["input_ids"].shape[1]
    rows = []
    for row, sample in enumerate(samples):
        begin, end = inputs.output_offsets[sample : sample + 2]
        first = longest - int(inputs.lengths[sample]) if filling.on_left else 0
        places = torch.from_numpy(inputs.output_positions[begin:end]).long() + first
        rows.append(values[row, places.to(values.device)])
    return rows
