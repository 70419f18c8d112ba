"""Students: building the model that training starts from.

A copied student is made of the teacher's own layers, half of them unless the experiment says
otherwise. Of a BERT it is a DistilBERT: no token-type embeddings, no pooler (Sanh et al. 2019,
sec. 3). Of most other families it is a model of that family with fewer layers, as
`student.architecture` says.

    distilcli init-student --teacher MODEL --output DIR --num-layers 6 --strategy alternate
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from distilcli.config.models import CheckpointStudent, CopiedStudent, RandomStudent
from distilcli.models.copying import config_of_student, copy_layers, seeded, target_family
from distilcli.models.families import MaskedLM, encoder_layers, family_of, is_encoder, without_head
from distilcli.models.layers import layers_of
from distilcli.models.loading import load_masked_lm, read_config
from distilcli.models.narrowing.narrow import Sequences, narrowed, no_sequences
from distilcli.models.narrowing.sizes import resized, wanted_sizes


def build_student(
    student: CopiedStudent | CheckpointStudent | RandomStudent,
    teacher: MaskedLM | None,
    seed: int,
    needs_head: bool = True,
    sequences: Sequences = no_sequences,
) -> MaskedLM:
    """The untrained student that the experiment describes: fp32, on the CPU, in eval mode.

    The global random state is left as it was: new weights come from `seed` alone.

    Args:
        student: the experiment's student section.
        teacher: the teacher in fp32, for the students that take something from it.
        seed: of new weights.
        needs_head: see `load_masked_lm`; of what has no masked-LM head the student has none.
        sequences: masked text, which a narrower copy is made by.

    Raises:
        ConfigError: layers that the source does not have, or widths that it cannot be cut to.
        ModelError: a model that the section names cannot be used.
    """
    if isinstance(student, CopiedStudent):
        model: MaskedLM = _build_copied(student, teacher, needs_head, sequences)
    elif isinstance(student, CheckpointStudent):
        model = _build_from_checkpoint(student, seed, needs_head)
    else:
        model = _build_random(student, teacher, seed)
    set_dropout(model, student.dropout, student.attention_dropout)
    model.train(False)
    return model


def _build_copied(
    student: CopiedStudent, teacher: MaskedLM | None, needs_head: bool, sequences: Sequences
) -> MaskedLM:
    source = teacher
    if student.source is not None:
        source = load_masked_lm(student.source, role="source", needs_head=needs_head)
    assert source is not None, "MaskedLMExperiment asks for a source where there is no teacher"
    copy = copy_layers(source, layers_of(source, student), student.architecture)
    return narrowed(copy, student, sequences)


def _build_from_checkpoint(student: CheckpointStudent, seed: int, needs_head: bool) -> MaskedLM:
    if not student.new_head:
        return load_masked_lm(student.model, role="student", new_head=False, needs_head=needs_head)
    with seeded(seed):
        return load_masked_lm(student.model, role="student", new_head=True)


def _build_random(student: RandomStudent, teacher: MaskedLM | None, seed: int) -> MaskedLM:
    if student.like is not None:
        like: Any = read_config(student.like, None, "student.like")
    else:
        assert teacher is not None, "MaskedLMExperiment asks for `like` where there is no teacher"
        like = teacher.config
    num_layers = student.num_layers or max(1, like.num_hidden_layers // 2)
    target = target_family(like, student.architecture)
    config = config_of_student(like, num_layers, True, target)
    with seeded(seed):
        model = target.masked_lm(resized(config, wanted_sizes(config, student)))
    # Of a teacher without a head nothing is learnt that a head could say.
    return without_head(model) if teacher is not None and is_encoder(teacher) else model


def set_dropout(
    model: PreTrainedModel, dropout: float | None, attention_dropout: float | None
) -> None:
    """Set both dropouts in the configuration, which is saved, and the modules, which compute."""
    family = family_of(model)
    if dropout is not None:
        setattr(model.config, family.settings.dropout, dropout)
        for name in family.settings.more_dropouts:
            setattr(model.config, name, dropout)
    attention = {layer.get_submodule(family.layer.attention) for layer in encoder_layers(model)}
    if attention_dropout is not None:
        setattr(model.config, family.settings.attention_dropout, attention_dropout)
        for module in attention:
            family.set_attention_dropout(module, attention_dropout)
    for parent in model.modules():
        for module in parent.children():
            if isinstance(module, nn.Dropout) and dropout is not None and parent not in attention:
                module.p = dropout
