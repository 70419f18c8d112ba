"""Texts that are both trained on and measured on are counted; the same ones are refused."""

import pytest

from distilcli.errors import DataError
from distilcli.text.overlap import digest_of_texts, overlap

KEYS = "task.train", "task.dev"


def digests(*texts: str) -> list[bytes]:
    return [digest_of_texts(text) for text in texts]


def test_a_text_is_known_by_its_words_and_a_pair_by_both_texts() -> None:
    assert digest_of_texts(" a b\n") == digest_of_texts("a b")
    assert len({digest_of_texts("a", "b"), digest_of_texts("ab"), digest_of_texts("b", "a")}) == 3


def test_nothing_in_common_needs_no_warning() -> None:
    found = overlap(digests("a", "b"), digests("c", "c"), KEYS, "rows")
    assert found.warning == ""
    found.refuse_same()


def test_what_is_in_both_is_counted() -> None:
    found = overlap(digests("a", "b", "c"), digests("a", "x", "a", "y"), KEYS, "rows")
    assert found.warning == (
        "2 of the 4 rows of task.dev (50.0%) are in task.train, too: "
        "scores on them say nothing of new text"
    )
    found.refuse_same()
    part = overlap(digests("a", "b", "c"), digests("a", "b"), KEYS, "rows")
    assert part.warning.startswith("2 of the 2 rows of task.dev (100.0%) are in task.train")
    part.refuse_same()


@pytest.mark.parametrize("held_out", [("a", "b"), ("b", "a", "a")])
def test_the_same_texts_are_refused(held_out: tuple[str, ...]) -> None:
    found = overlap(digests("a", "b"), digests(*held_out), KEYS, "rows")
    assert found.warning == "task.dev: the same rows as task.train; train and eval refuse that"
    with pytest.raises(DataError) as caught:
        found.refuse_same()
    assert caught.value.message == "task.dev: the same rows as task.train"
    assert "Keep some rows out of task.train" in caught.value.hint
