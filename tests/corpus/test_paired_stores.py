"""Stores that hold the tokens of a student and of its teacher for the same text."""

import dataclasses
import json

import numpy as np
import pytest
from corpus_files import all_sequences
from paired_stores import STUDENT, TEACHER, TREES, prepare_pair, recipe_of_pair, rows, word_pieces
from token_stores import data_config
from tokenizer_kinds import (
    AWKWARD,
    KINDS,
    SPECIALS,
    fast_tokenizer,
    with_fewer_pieces,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

import distilcli.corpus.sequences as sequences
from distilcli.corpus.prepare import prepare
from distilcli.corpus.sequences import Sequencer
from distilcli.text.tokenizers import text_backend


def pieces(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    """The text of each token between [CLS] and [SEP]."""
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    return [token.removeprefix("##") for token in tokenizer.convert_ids_to_tokens(ids[1:-1])]


def expected_places(own: list[str], others: list[str]) -> list[int]:
    """By how much text comes before each token, counted in characters of the whole row."""
    starts = np.cumsum([0, *map(len, own)])[:-1]
    teacher_starts = np.cumsum([0, *map(len, others)])[:-1]
    found = [0]
    for piece, start in zip(own, starts, strict=True):
        place = int(np.flatnonzero(teacher_starts <= start)[-1])
        is_same = teacher_starts[place] == start and others[place] == piece
        found.append(place + 1 if is_same else -(place + 1) - 1)
    return [*found, len(others) + 1]


# What is in it


def test_the_students_side_is_that_of_a_store_of_its_own(tmp_path, paired_data):
    paired = prepare_pair(paired_data)
    alone = prepare(paired_data.model_copy(update={"store": str(tmp_path / "alone")}), STUDENT, 1)
    assert paired.is_paired
    assert not alone.is_paired
    for split, expected in ((paired.train, alone.train), (paired.held_out, alone.held_out)):
        assert all_sequences(split) == all_sequences(expected)
        assert len(split) > 15
    assert paired.token_counts.tolist() == alone.token_counts.tolist()
    assert len(paired.manifest.shards["train"]) > 3


def test_rows_are_the_same_text_and_places_are_by_the_text(paired_data):
    """But for the parts of a word that is longer than a sequence."""
    store = prepare_pair(paired_data)
    num_compared = 0
    for split in (store.train, store.held_out):
        found = list(rows(split))
        goes_on = [STUDENT.convert_ids_to_tokens(own[1]).startswith("##") for own, *_ in found]
        for (own, others, places), *inside in zip(
            found, goes_on, [*goes_on[1:], False], strict=True
        ):
            if STUDENT.unk_token_id in own or TEACHER.unk_token_id in others or any(inside):
                continue
            student_pieces, teacher_pieces = pieces(STUDENT, own), pieces(TEACHER, others)
            assert "".join(student_pieces) == "".join(teacher_pieces)
            assert places == expected_places(student_pieces, teacher_pieces)
            num_compared += 1
    assert num_compared > 50


def test_what_agrees_is_counted(paired_data):
    store = prepare_pair(paired_data)
    teacher = store.manifest.teacher
    assert teacher is not None
    for name, split in (("train", store.train), ("held_out", store.held_out)):
        found = list(rows(split))
        counts = teacher.counts[name]
        assert counts.tokens == sum(len(ids) for _, ids, _ in found)
        assert counts.text_tokens == sum(len(own) - 2 for own, _, _ in found)
        assert counts.agreed == sum(place >= 0 for *_, p in found for place in p[1:-1])
        assert 0 < counts.agreed < counts.text_tokens
    assert teacher.vocab_size == len(TEACHER)
    assert teacher.tokenizer_model == "the-teacher"


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_have_all_of_a_text(kind, monkeypatch):
    """Joined again, the rows of a document are what each tokenizer makes of it, piece by piece."""
    monkeypatch.setattr(sequences, "SEGMENT_CHARS", 60)
    monkeypatch.setattr(sequences, "BATCH_CHARS", 150)
    teacher = fast_tokenizer(TREES[kind])
    student = fast_tokenizer(with_fewer_pieces(TREES[kind], 0.4, 2))
    recipe = recipe_of_pair(student, teacher, max_length=100)
    assert recipe.teacher is not None
    whole = dataclasses.replace(recipe.teacher, max_length=10**6)  # no row is cut
    sequencer = Sequencer(dataclasses.replace(recipe, teacher=whole))
    for text in ["\n".join(AWKWARD), *AWKWARD, "\u200b"]:
        made = sequencer([text], "train")["train"]
        if not made.lengths:
            continue
        columns = made.teacher_columns()
        for tokenizer, ids, lengths in (
            (student, made.values, made.lengths),
            (teacher, columns.ids, columns.lengths),
        ):
            cuts = np.split(np.array(ids), np.cumsum(lengths)[:-1])
            joined = [int(token) for cut in cuts for token in cut[1:-1]]
            backend = Tokenizer.from_str(json.dumps(text_backend(tokenizer)))
            assert joined == backend.encode(text.rstrip("\r\n"), add_special_tokens=False).ids


# Cuts


def rows_of(student, teacher, text: str, max_length: int):
    """Rows of one text: of each, tokens of both sides as strings, and places."""
    made = Sequencer(recipe_of_pair(student, teacher, max_length))([text], "train")["train"]
    columns = made.teacher_columns()
    cuts = [np.cumsum(lengths)[:-1] for lengths in (made.lengths, columns.lengths)]
    for own, others, places in zip(
        np.split(np.array(made.values), cuts[0]),
        np.split(columns.ids, cuts[1]),
        np.split(columns.places, cuts[0]),
        strict=True,
    ):
        names = (student.convert_ids_to_tokens(own), teacher.convert_ids_to_tokens(others))
        yield *(" ".join(tokens[1:-1]) for tokens in names), places.tolist()


def test_a_word_that_is_cut_inside():
    """What the teacher has across the cut belongs to the first part."""
    found = rows_of(word_pieces(), word_pieces("##bcde", "##gh", "##ia"), "jbcdefghia", 6)
    assert list(found) == [
        ("j ##b ##c ##d", "j ##bcde", [0, 1, -3, -3, -3, 3]),
        ("##e ##f ##g ##h", "##f ##gh", [0, -1, 1, -3, -3, 3]),
        ("##i ##a", "##ia", [0, -2, -2, 2]),
    ]


def test_a_cut_before_a_word():
    found = rows_of(word_pieces(), word_pieces("bcd", "ef"), "a bcd efg", 6)
    assert list(found) == [
        ("a b ##c ##d", "a bcd", [0, 1, -3, -3, -3, 3]),
        ("e ##f ##g", "ef ##g", [0, -2, -2, 2, 3]),
    ]


def test_a_teachers_row_that_is_too_long_is_cut():
    """Where the teacher has fewer pieces than the student."""
    found = rows_of(word_pieces("bcd", "ef", "gh"), word_pieces(), "a bcd ef gh a", 6)
    assert list(found) == [
        ("a bcd ef gh", "a b ##c ##d", [0, 1, -3, -1, -1, 5]),
        ("a", "a", [0, 1, 2]),
    ]


def test_remainders_that_are_dropped_take_the_teachers_tokens_along(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a bcd ef\na\nbcd ef gh\nef bcd\n")
    data = data_config(tmp_path / "s", path, max_length=8, min_length=7, held_out_fraction=0.0)
    teacher = word_pieces("bcd", "ef", "gh")
    store = prepare(data, word_pieces(), 1, teacher_tokenizer=teacher)
    assert store.manifest.dropped["short_remainder"].count == 2
    found = [" ".join(pieces(teacher, ids)) for _, ids, _ in rows(store.train)]
    assert found == ["a bcd ef", "bcd ef", "ef bcd"]


def test_text_that_the_student_drops_is_in_the_same_row_of_the_teacher():
    """Where its tokenizer has neither a piece nor [UNK]; a text of which it keeps nothing is none.

    Such a tokenizer is of no use, and is not to shift what comes after.
    """
    student, teacher = (letters(known) for known in ("ab", "abxy"))
    made = Sequencer(recipe_of_pair(student, teacher, 64))(["ab xy", "xy", "xy ba"], "train")
    columns = made["train"].teacher_columns()
    found = np.split(columns.ids, np.cumsum(columns.lengths)[:-1])
    assert [teacher.convert_ids_to_tokens(ids)[1:-1] for ids in found] == [
        list("abxy"),
        list("xyba"),
    ]
    assert columns.places.tolist() == [0, 1, 2, 5, 0, 3, 4, 5]


def letters(known: str) -> PreTrainedTokenizerFast:
    """A BPE of single letters that drops all others."""
    ids = {piece: index for index, piece in enumerate([*SPECIALS, *known])}
    backend = Tokenizer(BPE(ids, []))
    backend.pre_tokenizer = WhitespaceSplit()
    return fast_tokenizer(json.loads(backend.to_str()))
