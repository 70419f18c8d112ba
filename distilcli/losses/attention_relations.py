"""Relations between the queries, the keys and the values of the tokens of a sequence."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from distilcli.losses.token_pairs import Vectors, kl_of_rows, pair_losses


def relation_kl(
    student: Float[Tensor, "tokens width"],
    teacher: Float[Tensor, "tokens teacher_width"],
    lengths: Sequence[int],
    num_heads: int,
) -> Float[Tensor, ""]:
    """Sum over tokens of the mean over relation heads of KL(teacher || student), in nats.

    Both models' vectors A are cut into `num_heads` equal parts, whatever the heads of their
    attention are, and the relation of a sequence in one part is softmax(A A^T / sqrt(d)), d being
    the width of a part. So models of any two widths can be compared.

    Gradient with respect to the student's A, in one part: (G + G^T) A / (sqrt(d) * num_heads), with
    G the difference of the student's relation and the teacher's.

    Args:
        student: queries, keys or values of a layer, all sequences end to end.
        teacher: the same of the teacher.
        lengths: tokens of each sequence, in their order.
        num_heads: parts; must divide both widths.

    Raises:
        ValueError: it does not.
    Source: Wang et al. 2021 (MiniLMv2), eq. 5-7; of values Wang et al. 2020 (MiniLM), eq. 6-8.
    """
    return pair_losses(Vectors(student), Vectors(teacher), lengths, num_heads, kl_of_rows)
