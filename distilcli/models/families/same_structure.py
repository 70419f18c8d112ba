"""Families whose models compute what another family's do, in classes of their own.

transformers repeats such an architecture under other names of classes: the parts and their names
are the same, and a file of this folder says only what the classes are.
"""

from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from distilcli.models.families.family import Family
from distilcli.tasks.outputs import Head


def same_structure(
    family: Family,
    *,
    name: str,
    config_class: type[PreTrainedConfig],
    masked_lm: type[PreTrainedModel],
    task_models: dict[Head, type[PreTrainedModel]],
    saved_by: tuple[str, ...] = (),
    **changes: Any,
) -> Family:
    """A family with the structure of another one.

    Args:
        family: whose modules have the same names, and compute the same.
        name: what people call the new one.
        config_class: its configuration, which also names its model type.
        masked_lm: its model with a masked-LM head.
        task_models: its models with the heads for tasks.
        saved_by: further classes whose checkpoints have the masked-LM head.
        changes: what else differs, by field of `Family`.
    """
    return replace(
        family,
        model_type=config_class.model_type,
        name=name,
        config_class=config_class,
        masked_lm=masked_lm,
        vocabulary_head=replace(family.vocabulary_head, saved_by=(masked_lm.__name__, *saved_by)),
        task_heads={
            head: replace(family.task_heads[head], model_class=model_class)
            for head, model_class in task_models.items()
        },
        **changes,
    )
