"""Sizes that a student of a tiny model (16 wide, 4 heads, 24 inside) cannot have, and answers."""

from typing import Any

# Model type, what is asked for, message, hint.
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "bert",
        {"hidden_size": 20},
        "student.hidden_size 20: the source has 16, and a copied student is a part of it",
        "Set student.hidden_size to 1 ... 16.",
    ),
    (
        "bert",
        {"intermediate_size": 25},
        "student.intermediate_size 25: the source has 24, and a copied student is a part of it",
        "Set student.intermediate_size to 1 ... 24.",
    ),
    (
        "bert",
        {"num_heads": 8},
        "student.num_heads 8: the source has 4, and a copied student is a part of it",
        "Set student.num_heads to 1 ... 4.",
    ),
    (
        "bert",
        {"num_heads": 2},
        "student.num_heads 2 makes heads of 8, and those of the source have 4",
        "Set student.num_heads to 4 or more.",
    ),
    (
        "bert",
        {"num_heads": 3},
        "student.num_heads 3 does not divide a hidden size of 16 into heads",
        "Set student.num_heads to 4.",
    ),
    (
        "bert",
        {"hidden_size": 6},
        "student.hidden_size 6 is neither a multiple of 4, the heads of the source, nor of 4, "
        "their size",
        "Set student.num_heads to 2 or 3.",
    ),
    (
        "bert",
        {"hidden_size": 11},
        "student.hidden_size 11 is neither a multiple of 4, the heads of the source, nor of 4, "
        "their size",
        "Set student.hidden_size to a multiple of 4, the size of those heads.",
    ),
    (
        "modernbert",
        {"hidden_size": 12, "num_heads": 4},
        "student.num_heads 4 does not divide a hidden size of 12 into heads of an even size, for "
        "rotary positions",
        "Set student.num_heads to 3.",
    ),
    (
        "electra",
        {"hidden_size": 8},
        "student.hidden_size 8 is the width of the source's embeddings: an ELECTRA of one width "
        "has no projection between the two, and the source's would be lost",
        "Set student.hidden_size to another width.",
    ),
]
