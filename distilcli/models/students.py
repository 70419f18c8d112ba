"""Students: which layers of a teacher to copy, and building the model that training starts from.

A copied student is a DistilBERT made of a BERT's own layers: no token-type embeddings, no pooler,
half the depth (Sanh et al. 2019, sec. 3).

    distilcli init-student --teacher MODEL --output DIR --num-layers 6 --strategy alternate
"""

from typing import Any

from torch import nn
from transformers import BertForMaskedLM, DistilBertForMaskedLM, PreTrainedModel
from transformers.models.bert.modeling_bert import BertSelfAttention
from transformers.models.distilbert.modeling_distilbert import DistilBertSelfAttention

from distilcli.config.models import CheckpointStudent, CopiedStudent, RandomStudent
from distilcli.errors import ModelError
from distilcli.models.copying import config_of_student, copy_layers, seeded
from distilcli.models.families import MaskedLM, is_bert
from distilcli.models.layers import layer_map
from distilcli.models.loading import load_masked_lm, read_config

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
        return DistilBertForMaskedLM(config_of_student(like, num_layers, tied=True))


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
