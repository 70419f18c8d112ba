"""Settings of the losses that look inside the models, for masked-LM training and tasks."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, StrictInt, Tag, field_validator

from distilcli.config.fields import MAX_LAYERS, NumLayers, PositiveInt
from distilcli.config.loss_terms import TermConfig
from distilcli.config.schedules import ScheduledWeight


def _layers_kind(value: Any) -> str | None:
    return "list" if isinstance(value, list) else "uniform" if value == "uniform" else None


_TeacherLayers = Annotated[
    list[Annotated[StrictInt, Field(ge=0, le=MAX_LAYERS)] | None], Field(max_length=MAX_LAYERS)
]
TeacherLayers = Annotated[
    Annotated[Literal["uniform"], Tag("uniform")] | Annotated[_TeacherLayers, Tag("list")],
    Discriminator(
        _layers_kind,
        custom_error_type="teacher_layers",
        custom_error_message="must be uniform or a list of numbers of layers",
    ),
]


def _attention_layers_kind(value: Any) -> str | None:
    return "list" if isinstance(value, list) else "named" if value in ("last", "uniform") else None


_AttentionLayers = Annotated[list[NumLayers | None], Field(max_length=MAX_LAYERS)]
AttentionLayers = Annotated[
    Annotated[Literal["last", "uniform"], Tag("named")] | Annotated[_AttentionLayers, Tag("list")],
    Discriminator(
        _attention_layers_kind,
        custom_error_type="attention_layers",
        custom_error_message="must be last, uniform or a list of numbers of layers",
    ),
]


def _some_layer(layers: str | list[int | None]) -> str | list[int | None]:
    if isinstance(layers, list) and all(layer is None for layer in layers):
        raise ValueError("no layer is named")
    return layers


class HiddenStatesConfig(TermConfig):
    """The distance of hidden states after layers of both models, summed over the student's layers.

    A student of another width gets a learned projection to the teacher's.
    """

    looks_inside: ClassVar[bool] = True

    weight: ScheduledWeight = Field(
        0.0,
        description="Weight of the hidden states, L_hidn (Jiao et al. 2020).",
    )
    distance: Literal["mse", "cosine"] = Field(
        "mse",
        description="mse: the mean over the width of the squared difference (Jiao et al. 2020); "
        "cosine: 1 - cosine, half of PKD's L_PT (Sun et al. 2019).",
    )
    layers: TeacherLayers = Field(
        "uniform",
        description="For each layer of the student, after how many layers of the teacher the "
        "states are those to be met: 0 is what the first layer is given, null leaves one out. "
        "uniform: layer i of M has i N / M of N, rounded.",
    )

    @field_validator("layers")
    @classmethod
    def _compares_something(cls, layers: str | list[int | None]) -> str | list[int | None]:
        return _some_layer(layers)


class EmbeddingsConfig(TermConfig):
    """The mean over the width of the squared difference of what the first layers are given.

    A student of another width gets a learned projection to the teacher's.
    """

    looks_inside: ClassVar[bool] = True

    weight: ScheduledWeight = Field(
        0.0, description="Weight of the embeddings, L_embd (Jiao et al. 2020)."
    )


class AttentionRelationsConfig(TermConfig):
    """KL(teacher || student) of how the tokens of a sequence are related in a layer of attention.

    Of the last layer of the student and a layer of the teacher; widths and heads may differ.
    """

    looks_inside: ClassVar[bool] = True

    weight: ScheduledWeight = Field(
        0.0,
        description="Weight of the relations of attention (Wang et al. 2021, MiniLMv2).",
    )
    relations: Annotated[list[Literal["query", "key", "value"]], Field(min_length=1)] = Field(
        ["query", "key", "value"],
        description="What tokens are related by: query, key, value, or some of them.",
    )
    num_heads: PositiveInt | None = Field(
        None,
        description="Relation heads, parts that queries, keys and values are cut into; must divide "
        "the widths of both models. null: as many as have 16 numbers each in the teacher, or fewer "
        "that divide both.",
    )
    teacher_layer: NumLayers | None = Field(
        None, description="Layer of the teacher, from 1. null: the last one."
    )

    @field_validator("relations")
    @classmethod
    def _each_once(cls, relations: list[str]) -> list[str]:
        if len(set(relations)) < len(relations):
            raise ValueError("each may be there once")
        return relations


class AttentionDistributionsConfig(TermConfig):
    """The distance of where the tokens attend to in both models, head by head.

    Both models need the same number of heads.
    """

    looks_inside: ClassVar[bool] = True

    weight: ScheduledWeight = Field(
        0.0,
        description="Weight of the distributions of attention, L_AT (Wang et al. 2020, MiniLM) or "
        "L_attn (Jiao et al. 2020).",
    )
    distance: Literal["kl", "mse"] = Field(
        "kl",
        description="kl: KL(teacher || student) of the distributions (MiniLM); mse: the squared "
        "difference of the scores before the softmax (Jiao et al. 2020).",
    )
    layers: AttentionLayers = Field(
        "last",
        description="last: the last layers of both models (MiniLM); uniform: layer i of M of the "
        "student and i N / M of N of the teacher, rounded (Jiao et al.); or for each layer of the "
        "student one of the teacher, from 1, null leaves one out.",
    )

    @field_validator("layers")
    @classmethod
    def _compares_something(cls, layers: str | list[int | None]) -> str | list[int | None]:
        return _some_layer(layers)
