"""Making a student of chosen layers of its source."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from distilcli.errors import ModelError
from distilcli.models.configuration import check_positions
from distilcli.models.families import decoder

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
        student = DistilBertForMaskedLM(config_of_student(teacher.config, len(layer_indices), tied))
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


def config_of_student(like: Any, num_layers: int, tied: bool) -> DistilBertConfig:
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generator inside the block and put its state back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
