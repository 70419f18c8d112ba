"""The shape and size of a model, from its config.json and the headers of its weights."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from distilcli.errors import DistilError
from distilcli.models.families import FAMILIES
from distilcli.models.loading import read_config

_MIB = 2**20


@dataclass(frozen=True)
class ModelFacts:
    """What a model is.

    Attributes:
        family: what its architecture is called.
        layers: how many it has.
        width: of hidden states.
        heads: of attention, in each layer.
        inner: width inside feed-forward networks.
        vocabulary: how many tokens it knows.
        parameters: numbers in its files; None: they cannot be read.
        size_mib: MiB of these numbers in the precision of the files.
        config: its configuration.
    """

    family: str
    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int
    parameters: int | None
    size_mib: float | None
    config: Any


def facts_of_model(folder: Path) -> ModelFacts | None:
    """What lies in a folder; None where there is no model that can be read."""
    if not (folder / "config.json").is_file():
        return None
    try:
        config = read_config(str(folder.resolve()), None, "model")
        parameters, size = _sizes(folder)
        return ModelFacts(
            family=FAMILIES[config.model_type].name,
            layers=int(config.num_hidden_layers),
            width=int(config.hidden_size),
            heads=int(config.num_attention_heads),
            inner=int(_inner(config)),
            vocabulary=int(config.vocab_size),
            parameters=parameters,
            size_mib=size,
            config=config,
        )
    except (DistilError, AttributeError, TypeError, ValueError, KeyError):
        return None


def _inner(config: Any) -> int:
    settings = FAMILIES[config.model_type].settings
    return int(getattr(config, settings.inner_size))


def _sizes(folder: Path) -> tuple[int | None, float | None]:
    """Numbers in the weights and their MiB; no weight is read."""
    count = size = 0
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118  # it is no dictionary
                    one = file.get_slice(name)
                    numbers = prod(one.get_shape())
                    count += numbers
                    size += numbers * _bytes_of(one.get_dtype())
    except (OSError, SafetensorError):
        return None, None
    return (count, size / _MIB) if count else (None, None)


def _bytes_of(dtype: str) -> int:
    digits = "".join(filter(str.isdigit, dtype.partition("_")[0]))
    return max(1, int(digits or 8) // 8)
