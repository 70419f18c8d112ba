"""The cosine distance of last hidden states (L_cos)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from distilcli.losses.terms import HiddenTerm


def hidden_cosine_distance(
    student_hidden: Float[Tensor, "tokens hidden"], teacher_hidden: Float[Tensor, "tokens hidden"]
) -> Float[Tensor, ""]:
    """Sum over tokens of 1 - cos(student, teacher), between 0 and 2 per token.

    Source: Sanh et al. 2019, sec. 3 (cosine embedding loss of hidden states).
    """
    return (1.0 - F.cosine_similarity(student_hidden, teacher_hidden, dim=-1)).sum()


class HiddenCosine(HiddenTerm):
    """1 - cos of the last hidden states, computed in fp32."""

    name = "hidden_cosine"
    metric = "loss/cos"

    def sum(
        self, student: Float[Tensor, "tokens hidden"], teacher: Float[Tensor, "tokens hidden"]
    ) -> Float[Tensor, ""]:
        """`hidden_cosine_distance`."""
        return hidden_cosine_distance(student.float(), teacher.float())
