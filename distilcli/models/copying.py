"""Making a student of chosen layers of its source."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from distilcli.config.models import Architecture
from distilcli.errors import ModelError
from distilcli.models.configuration import check_positions
from distilcli.models.families import (
    FAMILIES,
    Family,
    decoder,
    encoder_layers,
    family_of,
    is_encoder,
    is_masked_lm,
    layer_kinds,
    made_anew,
    settle_ties,
    student_family,
    without_head,
)

# Where a student's LayerNorm epsilon is fixed in its code at 1e-12: up to this much the difference
# is lost in rounding; above it (1e-5, say) small-variance inputs would be normalised differently.
MAX_LAYER_NORM_EPS = 1e-6
# Settings that all configurations call the same.
_SHARED_SETTINGS = (
    "vocab_size",
    "max_position_embeddings",
    "initializer_range",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


def copy_layers(
    source: PreTrainedModel, layer_indices: list[int], architecture: Architecture = "auto"
) -> PreTrainedModel:
    """A student, in eval mode, of the chosen layers of a model, its embeddings and its head.

    Of a masked-LM model, or of a body alone, it is of the family that `target_family` names, which
    may be another one; with a head for a task it is of the source's own class. With every layer
    copied it computes what the source does, on inputs of one segment where it has no token types:
    its positions then have the source's type 0 added. A decoder that is not the source's word
    embeddings stays a matrix of its own.

    Args:
        source: in fp32 or fp64; rounded weights would make a rounded student.
        layer_indices: source layer of each student layer, from `layer_map`.
        architecture: of a student with a masked-LM head.

    Raises:
        ModelError: the source computes something that the student cannot.
    Source: Sanh et al. 2019, sec. 3.
    """
    assert source.dtype in (torch.float32, torch.float64), "copy before lowering the precision"
    family = family_of(source)
    _assert_kinds(source, layer_indices)
    is_for_text = is_masked_lm(source) or is_encoder(source)
    target = target_family(source.config, architecture) if is_for_text else family
    check_positions(source.config.to_dict(), "the source", family)
    if target is family:
        config = _shortened(source, len(layer_indices))
        weights = _chosen_layers(source, layer_indices)
    else:
        tied = is_encoder(source) or _is_tied(source)
        config = config_of_student(source.config, len(layer_indices), tied, target)
        weights = _translated(source, layer_indices, family, target)
    with seeded(0):  # every weight is overwritten; this keeps the global random state
        if target is family:
            student = made_anew(source, config)
        else:
            student = target.masked_lm(config)
            student = without_head(student) if is_encoder(source) else student
    nn.Module.to(student, dtype=source.dtype)
    # strict: a weight that was not copied would stay random without a word.
    student.load_state_dict(weights, strict=True)
    if is_masked_lm(student):
        settle_ties(student)
    student.train(False)
    return student


def _assert_kinds(source: PreTrainedModel, layer_indices: list[int]) -> None:
    of_source = layer_kinds(source, int(source.config.num_hidden_layers))
    wanted = layer_kinds(source, len(layer_indices))
    if of_source is not None:
        assert [of_source[index] for index in layer_indices] == wanted, "not from `layer_map`"


def _is_tied(model: PreTrainedModel) -> bool:
    words: Any = model.get_input_embeddings()
    return torch.equal(decoder(model).weight, words.weight)


def _shortened(source: PreTrainedModel, num_layers: int) -> PreTrainedConfig:
    """The source's configuration, with another depth."""
    depth = family_of(source).of_depth(source.config, num_layers)
    config: Any = type(source.config).from_dict(source.config.to_dict() | depth)
    if is_masked_lm(source):
        config.tie_word_embeddings = _is_tied(source)
    shortened: PreTrainedConfig = config
    return shortened


def _chosen_layers(source: PreTrainedModel, layer_indices: list[int]) -> dict[str, Tensor]:
    """The source's weights, with the chosen layers in the places of the first ones."""
    body = "" if is_encoder(source) else f"{source.base_model_prefix}."
    stack = f"{body}{family_of(source).layers}."
    weights = {k: v for k, v in source.state_dict().items() if not k.startswith(stack)}
    layers = encoder_layers(source)
    for place, index in enumerate(layer_indices):
        layer = layers[index].state_dict()
        weights |= {f"{stack}{place}.{name}": value for name, value in layer.items()}
    return weights


def _translated(
    source: PreTrainedModel, layer_indices: list[int], family: Family, target: Family
) -> dict[str, Tensor]:
    """The source's weights under the names that the same things have in another family."""
    modules = {}
    ours, theirs = "", ""
    if not is_encoder(source):
        modules = {
            getattr(target.vocabulary_head, role): getattr(family.vocabulary_head, role)
            for role in ("transform", "norm", "decoder")
        }
        ours, theirs = (f"{one.masked_lm.base_model_prefix}." for one in (target, family))
    modules[ours + target.embeddings.norm] = theirs + family.embeddings.norm
    roles = family.layer.roles
    for place, index in enumerate(layer_indices):
        for role, name in target.layer.roles.items():
            modules[f"{ours}{target.layers}.{place}.{name}"] = (
                f"{theirs}{family.layers}.{index}.{roles[role]}"
            )
    weights = source.state_dict()
    copied = {
        f"{name}.{part}": weights[f"{source_name}.{part}"]
        for name, source_name in modules.items()
        for part in ("weight", "bias")
    }
    embeddings = family.embeddings
    positions = weights[f"{theirs}{embeddings.positions}.weight"]
    if adds_token_type(family, target):
        positions = positions + weights[f"{theirs}{embeddings.token_types}.weight"][0]
    copied[f"{ours}{target.embeddings.positions}.weight"] = positions
    copied[f"{ours}{target.embeddings.words}.weight"] = weights[
        f"{theirs}{embeddings.words}.weight"
    ]
    return copied


def adds_token_type(family: Family, target: Family) -> bool:
    """Whether a copy's positions have its source's token type 0 added: it has no types itself."""
    return family.embeddings.token_types is not None and target.embeddings.token_types is None


def target_family(source: Any, architecture: Architecture) -> Family:
    """The family of a student with a masked-LM head.

    Args:
        source: configuration of the model that it is copied from, or shaped like.
        architecture: `same` or the name of another family; `auto`: that which the source's family
            has its students in, where they can compute what the source does, else the same.

    Raises:
        ModelError: a student of that family cannot compute what the source does.
    """
    family = family_of(source)
    if architecture == "same":
        return family
    usual = student_family(family)
    target = usual if architecture == "auto" else FAMILIES[architecture]
    reason = _no_copy(family, target) if target is not usual else other_epsilon(source)
    if reason is None:
        return target
    if architecture == "auto":
        return family
    raise ModelError(
        f"student.architecture={architecture}: {reason}",
        f"Set student.architecture=auto, for {family.a_name} with fewer layers.",
    )


def other_epsilon(source: Any) -> str | None:
    """Why the usual student of a model would compute something else; None: it computes the same.

    Args:
        source: configuration of the model.
    """
    family = family_of(source)
    target = student_family(family)
    fixed = target.layer_norm_eps
    if fixed is None:
        return None
    eps = source.layer_norm_eps if family.layer_norm_eps is None else family.layer_norm_eps
    if eps <= MAX_LAYER_NORM_EPS:
        return None
    return (
        f"the layer_norm_eps of this {family.name} is {eps:g}, and {target.a_name} always uses "
        f"{fixed:g}: its copied layers would compute something else"
    )


def _no_copy(family: Family, target: Family) -> str:
    """Why a model of one family cannot be copied into another, for people to read."""
    if family.embeddings.positions is None:
        why = "has no table of positions to copy"
    elif family.starts_after_padding:
        why = "counts positions from its padding on"
    elif family.embeddings.others:
        why = "may add embeddings that nothing there would hold"
    else:
        why = "may have embeddings and a head of another width"
    return f"{target.a_name} cannot be made of {family.a_name}, which {why}"


def config_of_student(
    like: Any, num_layers: int, tied: bool, target: Family | None = None
) -> PreTrainedConfig:
    """The configuration of a student with the widths of another model.

    Args:
        like: configuration of that model.
        num_layers: depth of the student.
        tied: whether its decoder is its word embeddings.
        target: family of the student; None: the usual one of that model's family.
    """
    family = family_of(like)
    target = target or student_family(family)
    names = family.settings.names
    values = {name: getattr(like, names[key]) for key, name in target.settings.names.items()}
    shared = _SHARED_SETTINGS + (family.inherited if target is family else ())
    values |= {name: getattr(like, name) for name in shared}
    values |= target.of_depth(like, num_layers)
    return target.config_class(**values | {"tie_word_embeddings": tied})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generator inside the block and put its state back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
