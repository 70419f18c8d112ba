"""Students: which layers of a teacher to copy, and building the model that training starts from.

A copied student is a DistilBERT made of a BERT's own layers: no token-type embeddings, no pooler,
half the depth (Sanh et al. 2019, sec. 3).

    distilcli init-student --teacher MODEL --output DIR --num-layers 6 --strategy alternate
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PreTrainedModel,
)
from transformers.models.bert.modeling_bert import BertSelfAttention
from transformers.models.distilbert.modeling_distilbert import DistilBertSelfAttention

from distilcli.errors import ConfigError, ModelError
from distilcli.model_config import check_positions
from distilcli.models import (
    MaskedLM,
    decoder,
    is_bert,
    load_masked_lm,
    read_config,
)
from distilcli.student_config import CheckpointStudent, CopiedStudent, LayerStrategy, RandomStudent

# DistilBERT's LayerNorm epsilon is fixed in its code at 1e-12. Up to this much the difference is
# lost in rounding; above it (1e-5, say) small-variance inputs would be normalised differently.
MAX_LAYER_NORM_EPS = 1e-6

# Modules of one layer: the DistilBERT name and the BERT name of the same thing.
_LAYER_MODULES = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
_HEAD_MODULES = {
    "distilbert.embeddings.LayerNorm": "bert.embeddings.LayerNorm",
    "vocab_transform": "cls.predictions.transform.dense",
    "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
    "vocab_projector": "cls.predictions.decoder",
}


# Which layers to copy


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


def layer_table(layer_indices: list[int]) -> list[tuple[str, str]]:
    """Rows (part of the student, part of the source it is copied from), for people to read."""
    layers = [(f"layer {i}", f"layer {source}") for i, source in enumerate(layer_indices)]
    embeddings = ("embeddings", "embeddings (token type 0 added to positions)")
    return [embeddings, *layers, ("masked-LM head", "masked-LM head")]


# Building a student


def build_student(
    student: CopiedStudent | CheckpointStudent | RandomStudent,
    teacher: MaskedLM | None,
    seed: int,
) -> MaskedLM:
    """The untrained student that the experiment describes: fp32, on the CPU, in eval mode.

    The global random state is left as it was: new weights come from `seed` alone.

    Args:
        student: the experiment's student section.
        teacher: the teacher in fp32, for the students that take something from it.
        seed: of new weights.

    Raises:
        ConfigError: layers that the source does not have.
        ModelError: a model that the section names cannot be used.
    """
    if isinstance(student, CopiedStudent):
        model: MaskedLM = _build_copied(student, teacher)
    elif isinstance(student, CheckpointStudent):
        model = _build_from_checkpoint(student, seed)
    else:
        model = _build_random(student, teacher, seed)
    set_dropout(model, student.dropout, student.attention_dropout)
    model.train(False)
    return model


def _build_copied(student: CopiedStudent, teacher: MaskedLM | None) -> DistilBertForMaskedLM:
    source = teacher if student.source is None else load_masked_lm(student.source, role="source")
    assert source is not None, "config.Experiment asks for a source where there is no teacher"
    if not isinstance(source, BertForMaskedLM):
        raise ModelError(
            "student.kind copied: layers are copied from a BERT only, the source is a DistilBERT",
            "Name a BERT in student.source, or start from the model: student.kind=checkpoint.",
        )
    indices = layer_map(source.config.num_hidden_layers, student.num_layers, student.layers)
    return copy_layers(source, indices)


def _build_from_checkpoint(student: CheckpointStudent, seed: int) -> MaskedLM:
    if not student.new_head:
        return load_masked_lm(student.model, role="student", new_head=False)
    with seeded(seed):
        return load_masked_lm(student.model, role="student", new_head=True)


def _build_random(
    student: RandomStudent, teacher: MaskedLM | None, seed: int
) -> DistilBertForMaskedLM:
    if student.like is not None:
        like: Any = read_config(student.like, None, "student.like")
    else:
        assert teacher is not None, "config.Experiment asks for `like` where there is no teacher"
        like = teacher.config
    num_layers = student.num_layers or max(1, like.num_hidden_layers // 2)
    with seeded(seed):
        return DistilBertForMaskedLM(_student_config(like, num_layers, tied=True))


def copy_layers(teacher: BertForMaskedLM, layer_indices: list[int]) -> DistilBertForMaskedLM:
    """A DistilBERT, in eval mode, of the chosen layers of a BERT and its embeddings and head.

    The student has no token-type embeddings, so the teacher's type 0 is added to the positions:
    with every layer copied, the two give the same logits on single-segment input. A decoder that
    is not the teacher's word embeddings stays a matrix of its own.

    Args:
        teacher: in fp32 or fp64; rounded weights would make a rounded student.
        layer_indices: source layer of each student layer, from `layer_map`.

    Raises:
        ModelError: the teacher computes something that a DistilBERT cannot.
    Source: Sanh et al. 2019, sec. 3.
    """
    assert teacher.dtype in (torch.float32, torch.float64), "copy before lowering the precision"
    _check_copyable(teacher.config)
    tied = torch.equal(decoder(teacher).weight, teacher.bert.embeddings.word_embeddings.weight)
    with seeded(0):  # every weight is overwritten; this keeps the global random state
        student = DistilBertForMaskedLM(_student_config(teacher.config, len(layer_indices), tied))
    nn.Module.to(student, dtype=teacher.dtype)
    # strict: a weight that no line below copies would stay random without a word.
    student.load_state_dict(_copied_state(teacher.state_dict(), layer_indices), strict=True)
    student.train(False)
    return student


def _copied_state(source: dict[str, Tensor], layer_indices: list[int]) -> dict[str, Tensor]:
    modules = dict(_HEAD_MODULES)
    for i, index in enumerate(layer_indices):
        for name, source_name in _LAYER_MODULES.items():
            modules[f"distilbert.transformer.layer.{i}.{name}"] = (
                f"bert.encoder.layer.{index}.{source_name}"
            )
    state = {
        f"{name}.{part}": source[f"{source_name}.{part}"]
        for name, source_name in modules.items()
        for part in ("weight", "bias")
    }
    embeddings = "bert.embeddings."
    state["distilbert.embeddings.word_embeddings.weight"] = source[
        embeddings + "word_embeddings.weight"
    ]
    state["distilbert.embeddings.position_embeddings.weight"] = (
        source[embeddings + "position_embeddings.weight"]
        + source[embeddings + "token_type_embeddings.weight"][0]
    )
    return state


def _check_copyable(config: BertConfig) -> None:
    eps = config.layer_norm_eps
    if eps > MAX_LAYER_NORM_EPS:
        raise ModelError(
            f"the source's layer_norm_eps is {eps:g}; a DistilBERT always uses 1e-12, "
            "so its copied layers would compute something else",
            "Where the source's loss is the same with layer_norm_eps 1e-12, say so in its "
            "config.json; otherwise use a BERT student (student.kind=checkpoint).",
        )
    check_positions(config.to_dict(), "the source")


def _student_config(like: Any, num_layers: int, tied: bool) -> DistilBertConfig:
    """A DistilBERT configuration with the widths of a BERT's or DistilBERT's."""
    is_bert = isinstance(like, BertConfig)
    return DistilBertConfig(
        vocab_size=like.vocab_size,
        max_position_embeddings=like.max_position_embeddings,
        n_layers=num_layers,
        n_heads=like.num_attention_heads,
        dim=like.hidden_size,
        hidden_dim=like.intermediate_size if is_bert else like.hidden_dim,
        dropout=like.hidden_dropout_prob if is_bert else like.dropout,
        attention_dropout=like.attention_probs_dropout_prob if is_bert else like.attention_dropout,
        activation=like.hidden_act if is_bert else like.activation,
        initializer_range=like.initializer_range,
        pad_token_id=like.pad_token_id,
        bos_token_id=like.bos_token_id,
        eos_token_id=like.eos_token_id,
        tie_word_embeddings=tied,
    )


def set_dropout(
    model: PreTrainedModel, dropout: float | None, attention_dropout: float | None
) -> None:
    """Set both dropouts in the configuration, which is saved, and the modules, which compute."""
    on_bert = is_bert(model)
    if dropout is not None:
        setattr(model.config, "hidden_dropout_prob" if on_bert else "dropout", dropout)
    if attention_dropout is not None:
        name = "attention_probs_dropout_prob" if on_bert else "attention_dropout"
        setattr(model.config, name, attention_dropout)
    for parent in model.modules():
        on_attention = isinstance(parent, (BertSelfAttention, DistilBertSelfAttention))
        value = attention_dropout if on_attention else dropout
        for module in parent.children():
            if isinstance(module, nn.Dropout) and value is not None:
                module.p = value


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generator inside the block and put its state back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


# What fits together


def check_pair(student: MaskedLM, teacher: MaskedLM, *, cosine: bool) -> None:
    """Refuse a pair whose outputs cannot be compared.

    Args:
        student: its logits and hidden states are compared with
        teacher: the teacher's.
        cosine: last hidden states are compared too, so their widths must agree.

    Raises:
        ModelError: other vocabulary sizes, or other hidden sizes where `cosine`.
    """
    sizes = student.config.vocab_size, teacher.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"the student's vocabulary has {sizes[0]} tokens, the teacher's {sizes[1]}",
            "Distillation compares logits token by token: both need the same tokenizer.",
        )
    if cosine:
        check_widths(student, teacher)


def check_widths(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Refuse a pair whose hidden states cannot be compared.

    Raises:
        ModelError: other hidden sizes.
    """
    widths = student.config.hidden_size, teacher.config.hidden_size
    if widths[0] != widths[1]:
        raise ModelError(
            f"loss.alpha_cos: the student's hidden size is {widths[0]}, the teacher's {widths[1]}",
            "Set loss.alpha_cos=0, or use a student of the teacher's width.",
        )


def check_length(model: MaskedLM, max_length: int) -> None:
    """Refuse sequences longer than the model has positions.

    Raises:
        ModelError: data.max_length is over the model's max_position_embeddings.
    """
    positions = model.config.max_position_embeddings
    if max_length > positions:
        raise ModelError(
            f"data.max_length {max_length} is over the {positions} positions of "
            f"{model.config.name_or_path or 'the model'}",
            f"Set data.max_length to {positions} or less.",
        )
