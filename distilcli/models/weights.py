"""Weights as they lie in the files of a model: safetensors only, under the names of the model.

Read by us and handed to transformers, which would also follow an index to pickles, an adapter to
another model, or a distributed checkpoint. Sizes are compared with config.json before anything is
built: a wrong digit there must not cost the memory of the machine.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from distilcli.errors import ModelError
from distilcli.files.digests import file_digest, text_digest
from distilcli.files.json_text import to_json
from distilcli.hub.model_files import COPY_AGAIN, ModelFiles, is_offline, unreadable
from distilcli.models.families import FAMILIES, Family, family_of

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OTHER_CONFIG = "Use the config.json that was saved with these weights."
# What wraps a model puts its own name before those of the weights: DataParallel and DDP,
# torch.compile, FSDP, activation checkpointing. Only the first can stand nowhere but in front.
_OUTER_WRAPPERS = re.compile(r"^(module\.)+")
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_LAYERS_TO_SPARE = 100


def read_weights(files: ModelFiles) -> dict[str, Tensor]:
    """All weights by name, on the CPU, in the precision of the files.

    Raises:
        ModelError: a file is missing, damaged or a pickle, or holds quantized weights.
    """
    weights: dict[str, Tensor] = {}
    for path in weight_paths(files):
        for name, tensor in _tensors(path, files.where).items():
            bare = _WRAPPERS.sub("", _OUTER_WRAPPERS.sub("", name))
            if bare in weights:
                raise ModelError(f"{files.where}: {bare} is in its weights twice", COPY_AGAIN)
            weights[bare] = tensor
    return weights


def weight_paths(files: ModelFiles) -> list[Path]:
    """The files that the weights are in, fetched if need be, in the order of their names.

    Raises:
        ModelError: a file is missing, or there are only pickles.
    """
    whole = files.find(WEIGHTS)
    if whole is not None:
        return [whole]
    index = files.json_object(INDEX)
    if index is not None:
        return [_shard(files, name) for name in _shard_names(index, files.where)]
    there = files.names()
    shards = [name for name in there if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    if shards:
        raise ModelError(
            f"{files.where}: {shards[0]} is a part of its weights, and {INDEX}, which names all "
            "parts, is missing",
            COPY_AGAIN,
        )
    pickles = [name for name in there if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickles or (files.folder is None and files.find("pytorch_model.bin") is not None):
        raise ModelError(
            f"{files.where}: its weights are pickled (.bin), and loading a pickle can run any code",
            "Convert them to model.safetensors where you trust them: load with transformers and "
            "save_pretrained.",
        )
    if files.folder is None and is_offline():
        raise ModelError(
            f"{files.where}: its weights are not on this machine, and HF_HUB_OFFLINE is set",
            "Unset it for one run, which fetches them, or give a folder.",
        )
    if files.folder is None:
        raise ModelError(
            f"{files.where}: it has no weights as safetensors",
            "Use a revision that has model.safetensors, or convert it first.",
        )
    raise ModelError(f"{files.where}: the folder has no {WEIGHTS}", COPY_AGAIN)


def weights_digest(paths: Sequence[Path]) -> str:
    """Digest of the files that the weights of a model are in; hexadecimal.

    Args:
        paths: from `weight_paths`; all of them are read.

    Raises:
        OSError: one cannot be read.
    """
    return text_digest(to_json([[path.name, file_digest(path)] for path in paths]))


def digest_of_model(folder: Path) -> str | None:
    """`weights_digest` of the model in a folder; None where there is none that can be read."""
    try:
        return weights_digest(weight_paths(ModelFiles(str(folder), folder)))
    except (ModelError, OSError):
        return None


def _shard_names(index: dict[str, Any], where: str) -> list[str]:
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{where}: its {INDEX} has no weight_map of names", COPY_AGAIN)
    for name in names.values():
        # Nothing but files beside the index, and no pickles.
        is_plain = isinstance(name, str) and name == Path(name).name and "\0" not in name
        if not is_plain or not name.endswith(".safetensors"):
            raise ModelError(
                f"{where}: its {INDEX} names {name!r}, which is no safetensors file beside it",
                "Do not use a model that you do not trust; download it again.",
            )
    return sorted(set(names.values()))


def _shard(files: ModelFiles, name: str) -> Path:
    path = files.find(name)
    if path is None:
        raise ModelError(
            f"{files.where}: {name}, a part of its weights, is missing",
            "Copy or download this file, too.",
        )
    return path


def _tensors(path: Path, where: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            # Copied: what is mapped would change, or end the process, with the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{where}: {path.name} is damaged ({error})", COPY_AGAIN) from error
    except OSError as error:
        raise unreadable(where, path.name, error) from error
    for name, tensor in tensors.items():
        # 8 bits or whole numbers mean nothing without the scales that they were quantized with.
        is_number = tensor.is_floating_point() and tensor.element_size() > 1
        if not is_number and not name.endswith(("position_ids", "token_type_ids")):
            raise ModelError(
                f"{where}: {name} is of {tensor.dtype}: these weights are quantized",
                "Use the model as it was before that, in fp32, fp16 or bf16.",
            )
    return tensors


def complete_head(weights: dict[str, Tensor], family: Family) -> None:
    """Give the bias of a masked-LM head all of its names, where the files have only one of them.

    transformers 5 keeps some families' bias under two names, transformers 4 saved it under one.
    """
    names = family.vocabulary_head.biases
    present = [name for name in names if name in weights]
    if present:
        for name in names:
            if name not in weights:
                weights[name] = weights[present[0]].clone()


def layer_number(name: str, family: Family) -> int | None:
    """The layer that a weight of this name is in; None of one that is in no layer."""
    found = re.search(rf"(?:^|\.){re.escape(family.layers)}\.(\d+)\.", name)
    return int(found[1]) if found else None


def check_sizes(config: Any, weights: dict[str, Tensor], where: str) -> None:
    """Compare the sizes in config.json with the weights, before a model of them is built.

    What else differs is found when the weights are loaded.

    Raises:
        ModelError: they differ, and which.
    """
    family = family_of(config)
    words, width = f"{family.embeddings.words}.weight", family.embedding_width(config)
    inner = getattr(config, family.settings.inner_size)
    # Also where the family has none: weights that have some are of another model.
    types = {one.embeddings.token_types for one in FAMILIES.values()} - {None}
    tables = dict.fromkeys(types, 0) | family.tables(config)
    _, parts = family.layer.part("inner")
    expected = {
        **{f"{name}.weight": (rows, width) for name, rows in tables.items()},
        f"{family.layers}.0.{family.layer.inner}.weight": (parts * inner, config.hidden_size),
    }
    found = {
        (name, ending): tuple(tensor.shape)
        for name, tensor in weights.items()
        for ending in expected
        if name.endswith(f".{ending}") or name == ending
    }
    for (name, ending), shape in found.items():
        if shape != expected[ending]:
            raise ModelError(
                f"{where}: {name} is {list(shape)}, but config.json makes it "
                f"{list(expected[ending])}",
                OTHER_CONFIG,
            )
    if not any(ending == words for _, ending in found):
        raise ModelError(
            f"{where}: no word embeddings among its weights (found, for example, "
            f"{_first(weights)})",
            f"Use {family.a_name} whose weights are named as transformers names them.",
        )
    numbers = (layer_number(name, family) for name in weights)
    layers = {number for number in numbers if number is not None}
    depth = int(config.num_hidden_layers)
    # A few layers too many are built, and then named one by one.
    if layers and depth > max(layers) + 1 + _LAYERS_TO_SPARE:
        raise ModelError(
            f"{where}: config.json says {depth:,} layers, but its weights are of {max(layers) + 1}",
            OTHER_CONFIG,
        )


def _first(weights: dict[str, Tensor]) -> str:
    return min(weights, default="nothing at all")
