"""The widths of a student: what is asked for, and whether its source can be cut down to it."""

from typing import Any, NamedTuple

from transformers import PreTrainedConfig

from distilcli.config.models import Widths
from distilcli.errors import ConfigError
from distilcli.models.families import family_of


class Sizes(NamedTuple):
    """Widths of a model.

    Attributes:
        hidden_size: of hidden states.
        num_heads: attention heads of a layer.
        inner_size: between the two products of a feed-forward network.
    """

    hidden_size: int
    num_heads: int
    inner_size: int

    @property
    def head_size(self) -> int:
        """Numbers that each head has of a query, a key or a value."""
        return self.hidden_size // self.num_heads


def sizes_of(config: Any) -> Sizes:
    """The widths in a configuration."""
    names = family_of(config).settings
    return Sizes(
        int(getattr(config, names.hidden_size)),
        int(getattr(config, names.num_attention_heads)),
        int(getattr(config, names.inner_size)),
    )


def resized(config: Any, sizes: Sizes) -> PreTrainedConfig:
    """A configuration with other widths; embeddings as wide as hidden states stay so."""
    changes = family_of(config).of_width(config, *sizes)
    other: PreTrainedConfig = type(config).from_dict(config.to_dict() | changes)
    return other


def wanted_sizes(source: Any, student: Widths) -> Sizes:
    """The widths of a student that has those of a source where it says nothing else.

    Without a number of heads there are as many as before if they divide the new width, else heads
    of the size that they had. Without an inner size, it is smaller in proportion.

    Args:
        source: configuration that the student is shaped after.
        student: what is asked for.

    Raises:
        ConfigError: heads do not divide the width, or are of a size that the family cannot have.
    """
    old = sizes_of(source)
    width = student.hidden_size or old.hidden_size
    inner = student.intermediate_size or max(1, old.inner_size * width // old.hidden_size)
    usual = [n for n in (old.num_heads, width // old.head_size) if _keeps(source, old, width, n)]
    heads = student.num_heads or next(iter(usual), None)
    if heads is None or not _can_have(source, width, heads):
        raise _no_such_heads(source, width, heads)
    return Sizes(width, heads, inner)


def _no_such_heads(source: Any, width: int, heads: int | None) -> ConfigError:
    """What to do where a width cannot be in so many heads, or in no number that is usual."""
    old = sizes_of(source)
    even = " of an even size, for rotary positions" * _rotates(source)
    fitting = [
        n
        for n in range(1, min(old.num_heads, width) + 1)
        if _can_have(source, width, n) and width // n <= old.head_size
    ]
    hint = f"Set student.hidden_size to a multiple of {old.head_size}, the size of those heads."
    if fitting:
        hint = f"Set student.num_heads to {_listed(fitting)}."
    if heads is None:
        return ConfigError(
            f"student.hidden_size {width} is neither a multiple of {old.num_heads}, the heads of "
            f"the source, nor of {old.head_size}, their size{', with heads' * bool(even)}{even}",
            hint,
        )
    return ConfigError(
        f"student.num_heads {heads} does not divide a hidden size of {width} into heads{even}", hint
    )


def _rotates(source: Any) -> bool:
    """Whether queries and keys are rotated, in pairs of numbers, to tell positions."""
    return family_of(source).embeddings.positions is None


def _can_have(source: Any, width: int, heads: int) -> bool:
    """Whether a model of the source's family can have this width in so many heads."""
    divides = 0 < heads <= width and width % heads == 0
    return divides and not (_rotates(source) and width // heads % 2)


def _keeps(source: Any, old: Sizes, width: int, heads: int) -> bool:
    """Whether heads of the source's size, or of its number, divide a width."""
    same = heads == old.num_heads or heads * old.head_size == width
    return same and _can_have(source, width, heads)


def _listed(numbers: list[int]) -> str:
    shown = [str(number) for number in numbers[-6:]]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def check_can_be_cut(source: Any, sizes: Sizes) -> None:
    """Refuse widths that no part of a source has.

    Args:
        source: configuration of the model that is made narrower.
        sizes: of the result.

    Raises:
        ConfigError: a width is larger than the source's, or its family would build a model of
            other parts.
    """
    old = sizes_of(source)
    keys = ("hidden_size", "num_heads", "intermediate_size")
    for key, new, most in zip(keys, sizes, old, strict=True):
        if new > most:
            raise ConfigError(
                f"student.{key} {new}: the source has {most}, and a copied student is a part of it",
                f"Set student.{key} to 1 ... {most}.",
            )
    if sizes.head_size > old.head_size:
        raise ConfigError(
            f"student.num_heads {sizes.num_heads} makes heads of {sizes.head_size}, and those of "
            f"the source have {old.head_size}",
            f"Set student.num_heads to {-(-sizes.hidden_size // old.head_size)} or more.",
        )
    embeddings = family_of(source).embedding_width(source)
    if old.hidden_size != embeddings == sizes.hidden_size:
        raise ConfigError(
            f"student.hidden_size {embeddings} is the width of the source's embeddings: "
            f"{family_of(source).a_name} of one width has no projection between the two, and the "
            "source's would be lost",
            "Set student.hidden_size to another width.",
        )
