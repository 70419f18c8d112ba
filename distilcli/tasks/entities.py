"""Entities that tags mark, such as B-PER, I-PER, O, and their F1.

They are those that seqeval 1.2.2 finds in its default mode, which takes every scheme for what the
CoNLL-2000 script makes of it: an entity goes on as long as its type does, and neither a tag that
begins one nor one that ends it stands between. Besides B, I, E and S the letters of other schemes
are known: L (last) is an E, U (unit) and W (whole) an S, M (middle) an I.
"""

from collections.abc import Sequence

_OUTSIDE = "O"
_LETTERS = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S", "W": "S", "M": "I"}
SCHEMES = "tags such as B-PER, I-PER, O, or of BIOES, BILOU or BMES"
Entity = tuple[str, int, int]


def not_of_entities(labels: Sequence[str]) -> str | None:
    """A label that keeps entities from being counted.

    Returns:
        The first label that is not O and does not begin, continue or end an entity; O where there
        is no other label, and so no entity; None where entities can be counted.
    """
    others = [label for label in labels if not _is_tag(label)]
    if others:
        return others[0]
    return None if any(label != _OUTSIDE for label in labels) else _OUTSIDE


def _is_tag(label: str) -> bool:
    letter, hyphen, kind = label.partition("-")
    return label == _OUTSIDE or (letter in _LETTERS and bool(kind) == bool(hyphen))


def entity_f1(truth: Sequence[list[str]], predicted: Sequence[list[str]]) -> float:
    """F1 of whole entities over all sentences.

    An entity is found if its type, its first and its last word are those of a true one.
    """
    expected, found, shared = 0, 0, 0
    for true_tags, found_tags in zip(truth, predicted, strict=True):
        true_entities, found_entities = entities(true_tags), entities(found_tags)
        expected += len(true_entities)
        found += len(found_entities)
        shared += len(true_entities & found_entities)
    return 2 * shared / (expected + found) if expected + found else 0.0


def entities(tags: Sequence[str]) -> set[Entity]:
    """(type, first word, last word) of each entity in the tags of a sentence."""
    spans: set[Entity] = set()
    before, type_before, start = _OUTSIDE, "", 0
    for index, tag in enumerate([*tags, _OUTSIDE]):
        letter, _, kind = tag.partition("-")
        letter = _LETTERS.get(letter, _OUTSIDE)
        is_other = letter != _OUTSIDE and kind != type_before
        if before != _OUTSIDE and (
            before in "ES" or letter in (_OUTSIDE, "B", "S") or kind != type_before
        ):
            spans.add((type_before, start, index - 1))
        if letter in ("B", "S") or is_other or (letter in ("I", "E") and before in "OES"):
            start = index
        before, type_before = letter, kind
    return spans
