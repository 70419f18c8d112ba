"""Which layers of a teacher a student is made of.

In some families layers are of several kinds: local and global attention take turns, say. A student
has them in the order of its source, so that its configuration is that of a shorter source.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf

from transformers import PreTrainedModel

from distilcli.config.models import LayerStrategy, TaskCopiedStudent
from distilcli.errors import ConfigError
from distilcli.models.families import layer_kinds

# Given a depth, the kind of each layer of a model that deep; None where layers are all alike.
Kinds = Callable[[int], list[str] | None]


def layers_of(source: PreTrainedModel, student: TaskCopiedStudent) -> list[int]:
    """The layers of a source that a student is made of; see `layer_map`."""
    depth = int(source.config.num_hidden_layers)
    kinds = partial(layer_kinds, source)
    return layer_map(depth, student.num_layers, student.layers, kinds)


def layer_map(
    num_source_layers: int,
    num_layers: int | None,
    layers: LayerStrategy | list[int],
    kinds: Kinds = lambda _: None,
) -> list[int]:
    """The source layer that each student layer is copied from, first student layer first.

    Args:
        num_source_layers: depth of the source, L.
        num_layers: depth of the student, n; None: the length of an explicit list, else L // 2.
        layers: `alternate`: floor(i L / n), so 0, 2, 4, ... at half depth (Sanh et al. 2019,
            sec. 3); `spread`: evenly, first and last kept (the released DistilBERT's); a single
            layer is the first; `top` and `bottom`: the last and the first n; or an explicit
            list, in any order and with repeats.
        kinds: of the source's layers. Where there are several, layer i of the student is of the
            kind of the source's layer i. A strategy then gives, of all strictly increasing lists
            with the right kinds, the one with the smallest sum of distances to its own list; of
            several, the one that is lower where they first differ.

    Raises:
        ConfigError: the source has no such layers, or the list and `num_layers` disagree, or the
            list has a layer of one kind in the place of another.
    """
    if isinstance(layers, list):
        chosen = _explicit_layers(num_source_layers, num_layers, layers)
        _check_kinds(chosen, num_source_layers, kinds)
        return chosen
    chosen = _of_strategy(num_source_layers, num_layers, layers)
    return nearest_of_right_kinds(chosen, num_source_layers, kinds)


def _of_strategy(
    num_source_layers: int, num_layers: int | None, layers: LayerStrategy
) -> list[int]:
    count = max(1, num_source_layers // 2) if num_layers is None else num_layers
    if not 1 <= count <= num_source_layers:
        raise ConfigError(
            f"student.num_layers {count}: the source has {num_source_layers} layers to copy",
            f"Set student.num_layers to 1 ... {num_source_layers}.",
        )
    if layers == "alternate":
        return [i * num_source_layers // count for i in range(count)]
    if layers == "spread":
        # i (L-1) / (n-1), rounded half up in integers, so that no float decides a layer.
        gaps = max(1, count - 1)
        return [(2 * i * (num_source_layers - 1) + gaps) // (2 * gaps) for i in range(count)]
    first = num_source_layers - count if layers == "top" else 0
    return list(range(first, first + count))


def _explicit_layers(
    num_source_layers: int, num_layers: int | None, layers: list[int]
) -> list[int]:
    if not layers:
        raise ConfigError("student.layers is an empty list", "Name at least one layer to copy.")
    outside = [index for index in layers if not 0 <= index < num_source_layers]
    if outside:
        raise ConfigError(
            f"student.layers: {outside[0]} is not a layer of the source, "
            f"which has {num_source_layers}",
            f"Use indices 0 ... {num_source_layers - 1}.",
        )
    if num_layers is not None and num_layers != len(layers):
        raise ConfigError(
            f"student.layers lists {len(layers)} layers, but student.num_layers is {num_layers}",
            "Leave student.num_layers out, or make the two agree.",
        )
    return list(layers)


def _check_kinds(chosen: list[int], num_source_layers: int, kinds: Kinds) -> None:
    """Refuse a list with a layer of one kind in the place of another."""
    of_source, wanted = kinds(num_source_layers), kinds(len(chosen))
    if of_source is None or wanted is None:
        return
    for place, (index, kind) in enumerate(zip(chosen, wanted, strict=True)):
        if of_source[index] != kind:
            fitting = nearest_of_right_kinds(chosen, num_source_layers, kinds)
            raise ConfigError(
                f"student.layers: the student's layer {place} must be {kind} of the source, and "
                f"the source's layer {index} is {of_source[index]}",
                "Keep the order that the source has its kinds of layers in, as in "
                f"{','.join(map(str, fitting))}.",
            )


def nearest_of_right_kinds(ideal: list[int], num_source_layers: int, kinds: Kinds) -> list[int]:
    """The layers of the right kinds that are nearest to an ideal list, as `layer_map` says.

    A list longer than the source cannot increase: it gets the nearest layer for each place.
    """
    of_source, wanted = kinds(num_source_layers), kinds(len(ideal))
    if of_source is None or wanted is None:
        return ideal
    if len(ideal) > num_source_layers:
        return [
            min((abs(i - at), i) for i, found in enumerate(of_source) if found == kind)[1]
            for at, kind in zip(ideal, wanted, strict=True)
        ]
    return _nearest_increasing(ideal, wanted, of_source)


def _nearest_increasing(
    ideal: Sequence[int], wanted: Sequence[str], of_source: Sequence[str]
) -> list[int]:
    """By dynamic programming from the last place to the first.

    `best[j]` is the least sum of distances of the places so far with all of them at layer j or
    later, and `first[j]` the layer of the first of them.
    """
    end = len(of_source)
    best: list[float] = [0.0] * (end + 1)
    choices: list[list[int]] = []
    for at, kind in zip(reversed(ideal), reversed(wanted), strict=True):
        sums, first = [inf] * (end + 1), [end] * (end + 1)
        for j in reversed(range(end)):
            here = abs(j - at) + best[j + 1] if of_source[j] == kind else inf
            sums[j], first[j] = min((here, j), (sums[j + 1], first[j + 1]))
        best = sums
        choices.append(first)
    chosen: list[int] = []
    for first in reversed(choices):
        chosen.append(first[chosen[-1] + 1 if chosen else 0])
    return chosen


def layer_table(
    layer_indices: list[int], adds_type: bool, has_head: bool = True
) -> list[tuple[str, str]]:
    """Rows (part of the student, part of the source it is copied from), for people to read.

    Args:
        layer_indices: source layer of each student layer.
        adds_type: whether the student's positions have the source's token type 0 added.
        has_head: whether both have a masked-LM head.
    """
    layers = [(f"layer {i}", f"layer {source}") for i, source in enumerate(layer_indices)]
    embeddings = "embeddings" + adds_type * " (token type 0 added to positions)"
    head = [("masked-LM head", "masked-LM head")] if has_head else []
    return [("embeddings", embeddings), *layers, *head]
