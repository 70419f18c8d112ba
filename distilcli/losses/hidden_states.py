"""Hidden states after the layers of the student, beside those of chosen layers of the teacher."""

from collections.abc import Callable, Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from distilcli.losses.hidden_cosine import hidden_cosine_distance
from distilcli.losses.inside import CannotCompare, Compared, InnerTerm, Pair, Place, Shape
from distilcli.losses.terms import Schedule

Distance = Literal["mse", "cosine"]


def hidden_squared_error(
    student: Float[Tensor, "tokens hidden"], teacher: Float[Tensor, "tokens hidden"]
) -> Float[Tensor, ""]:
    """Sum over tokens of the mean over the width of (student - teacher)^2.

    Gradient with respect to the student's states: 2 (student - teacher) / width.

    Source: Jiao et al. 2020 (TinyBERT), eq. 8 and 9.
    """
    return (student - teacher).square().sum() / student.shape[-1]


_DISTANCES: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": hidden_squared_error,
    "cosine": hidden_cosine_distance,
}


def uniform_layers(num_student_layers: int, num_teacher_layers: int) -> list[int]:
    """After how many of the teacher's layers its states are compared with each student layer's.

    Layer i of M, from 1, has i * N / M, rounded half up and at least 1: the last has the last.

    Source: the uniform strategy of Jiao et al. 2020, sec. 4.2; Sun et al. 2019 (PKD), "skip".
    """
    count = num_student_layers
    return [
        max(1, (2 * i * num_teacher_layers + count) // (2 * count)) for i in range(1, count + 1)
    ]


class HiddenStates(InnerTerm):
    """The distance of hidden states, summed over the layers of the student, computed in fp32.

    Args:
        distance: `mse`: squared error, a mean over the width (Jiao et al. 2020, eq. 8); `cosine`:
            1 - cos, which is half of PKD's squared error of states divided by their norms.
        layers: after how many of the teacher's layers its states are compared with those after
            each layer of the student, from the first; None: that one is left out. `uniform`:
            `uniform_layers`.
    """

    name = "hidden_states"
    metric = "loss/hidden_states"
    needs_one_width = True

    def __init__(
        self,
        weight: float | Schedule,
        temperature: float | Schedule,
        *,
        distance: Distance = "mse",
        layers: Literal["uniform"] | Sequence[int | None] = "uniform",
    ) -> None:
        super().__init__(weight, temperature)
        self._distance = _DISTANCES[distance]
        self._layers = layers

    def places(self, student: Shape, teacher: Shape) -> list[Pair]:
        """States after layers of the student, beside those after layers of the teacher."""
        if self._layers == "uniform":
            chosen: Sequence[int | None] = uniform_layers(student.num_layers, teacher.num_layers)
        else:
            chosen = self._layers
            check_layers(chosen, student.num_layers, teacher.num_layers)
        return [
            Pair(Place("hidden_states", after), Place("hidden_states", of_teacher))
            for after, of_teacher in enumerate(chosen, start=1)
            if of_teacher is not None
        ]

    def sum(self, compared: Sequence[Compared], lengths: Sequence[int]) -> Float[Tensor, ""]:
        """The sum over tokens and layers."""
        first, *others = (self._distance(s.float(), t.float()) for s, t in compared)
        return sum(others, start=first)


def check_layers(
    layers: Sequence[int | None], num_student_layers: int, num_teacher_layers: int, first: int = 0
) -> None:
    """Refuse a list that does not name a layer of the teacher for each layer of the student.

    Raises:
        CannotCompare: naming the setting `layers`.
    """
    if len(layers) != num_student_layers:
        raise CannotCompare(
            f"layers: {len(layers)} entries, and the student has {num_student_layers} layers",
            "Name a layer of the teacher for each layer of the student; null leaves one out.",
        )
    outside = [layer for layer in layers if layer is not None and layer > num_teacher_layers]
    if outside:
        also = "" if first else ", or 0 for what the first layer is given"
        raise CannotCompare(
            f"layers: {outside[0]} is over the {num_teacher_layers} layers of the teacher",
            f"Use 1 ... {num_teacher_layers}{also}.",
        )
