"""Which layers of a teacher a student is made of."""

from distilcli.config.models import LayerStrategy
from distilcli.errors import ConfigError


def layer_map(
    num_source_layers: int, num_layers: int | None, layers: LayerStrategy | list[int]
) -> list[int]:
    """The source layer that each student layer is copied from, first student layer first.

    Args:
        num_source_layers: depth of the source, L.
        num_layers: depth of the student, n; None: the length of an explicit list, else L // 2.
        layers: `alternate`: floor(i L / n), so 0, 2, 4, ... at half depth (Sanh et al. 2019,
            sec. 3); `spread`: evenly, first and last kept (the released DistilBERT's); a single
            layer is the first; `top` and `bottom`: the last and the first n; or an explicit
            list, in any order and with repeats.

    Raises:
        ConfigError: the source has no such layers, or the list and `num_layers` disagree.
    """
    if isinstance(layers, list):
        return _explicit_layers(num_source_layers, num_layers, layers)
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


def layer_table(layer_indices: list[int], adds_type: bool) -> list[tuple[str, str]]:
    """Rows (part of the student, part of the source it is copied from), for people to read.

    Args:
        layer_indices: source layer of each student layer.
        adds_type: whether the student's positions have the source's token type 0 added.
    """
    layers = [(f"layer {i}", f"layer {source}") for i, source in enumerate(layer_indices)]
    embeddings = "embeddings" + adds_type * " (token type 0 added to positions)"
    return [("embeddings", embeddings), *layers, ("masked-LM head", "masked-LM head")]
