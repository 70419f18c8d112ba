"""Making a paired store: gone on with, refused, damaged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from corpus_files import assert_same_files
from paired_stores import STUDENT, TEACHER, TREES, prepare_pair, recipe_of_pair, word_pieces
from tokenizer_kinds import (
    fast_tokenizer,
    with_fewer_pieces,
)

from distilcli.config.data import DataConfig
from distilcli.corpus.arrow_files import read_column
from distilcli.corpus.prepare import finished_store, is_prepared, prepare
from distilcli.corpus.sequences import Sequencer
from distilcli.corpus.shards import ShardWriter
from distilcli.corpus.store import TokenStore
from distilcli.distillation.identity import identity_of_store
from distilcli.errors import DataError, ModelError


@pytest.mark.slow
def test_number_of_processes_changes_nothing(tmp_path, paired_data):
    prepare_pair(paired_data.model_copy(update={"store": str(tmp_path / "one")}))
    prepare_pair(paired_data.model_copy(update={"store": str(tmp_path / "two")}), num_proc=2)
    assert_same_files(tmp_path / "one", tmp_path / "two")


def test_killed_it_goes_on(tmp_path, paired_data, monkeypatch):
    prepare_pair(paired_data.model_copy(update={"store": str(tmp_path / "whole")}))
    write, written = ShardWriter.write, []

    def dies_at_third(self, shard):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.index)
        return write(self, shard)

    monkeypatch.setattr(ShardWriter, "write", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        prepare_pair(paired_data)
    assert not is_prepared(paired_data, STUDENT, teacher_tokenizer=TEACHER)
    monkeypatch.setattr(ShardWriter, "write", write)
    seen = []
    prepare(paired_data, STUDENT, 1, seen.append, teacher_tokenizer=TEACHER)
    assert seen[-1].skipped_shards == 2 < seen[-1].shards
    assert_same_files(tmp_path / "whole", tmp_path / "store")


def test_shards_of_one_kind_are_not_taken_for_the_other(paired_data, monkeypatch):
    """Of a store that was begun with something to keep, the settings are held to."""
    finish = "distilcli.corpus.prepare._Preparation.finish"
    for begun, wanted, message in (
        (None, TEACHER, "for one tokenizer, not for a student and its teacher"),
        (TEACHER, None, "for a teacher, too"),
        (STUDENT, TEACHER, "for another teacher"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(finish, interrupt)
            with pytest.raises(KeyboardInterrupt):
                prepare_pair(paired_data, teacher=begun)
        with pytest.raises(DataError, match=f"made with other settings: {message}$"):
            prepare_pair(paired_data, teacher=wanted)
        prepare_pair(paired_data, teacher=begun)
        assert is_prepared(paired_data, STUDENT, teacher_tokenizer=begun)
        assert not is_prepared(paired_data, STUDENT, teacher_tokenizer=wanted)
        assert finished_store(paired_data, STUDENT, wanted) is None
        with pytest.raises(DataError, match=f"made with other settings: {message}$"):
            prepare_pair(paired_data, teacher=wanted)
        shutil.rmtree(paired_data.store)


def test_a_shard_itself_says_whether_it_has_the_teachers_tokens(tmp_path, paired_data):
    """Shards of the student alone, under settings that say otherwise, are made anew."""
    alone = paired_data.model_copy(update={"store": str(tmp_path / "alone")})
    prepare(alone, STUDENT, 1)
    expected = prepare_pair(paired_data).manifest
    (tmp_path / "alone/manifest.json").unlink()
    shutil.copy(tmp_path / "store/settings.json", tmp_path / "alone")
    seen = []
    found = prepare(alone, STUDENT, 1, seen.append, teacher_tokenizer=TEACHER).manifest
    assert seen[-1].skipped_shards == 0
    assert found == expected


def interrupt(*_):
    raise KeyboardInterrupt


def test_the_teachers_tokenizer_is_checked(paired_data):
    with pytest.raises(DataError, match="has no tokens of a teacher"):
        prepare_pair(paired_data, teacher=None).check_teacher_tokenizer(TEACHER)
    shutil.rmtree(paired_data.store)
    store = prepare_pair(paired_data)
    store.check_tokenizer(STUDENT)
    store.check_teacher_tokenizer(TEACHER)
    other = fast_tokenizer(with_fewer_pieces(TREES["wordpiece"], 0.1, 9), "another")
    with pytest.raises(DataError, match="that of the-teacher, not that of another"):
        store.check_teacher_tokenizer(other)
    with pytest.raises(DataError, match="made with another tokenizer"):
        store.check_tokenizer(TEACHER)


NEW_TOKEN = {"id": len(TEACHER), "content": "<url>", "special": False}


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("wordpiece at spaces", "pre_tokenizer"),
        ("bpe with suffix", "normalizer"),
        ("wordpiece with a token", "added_tokens"),
        ("word level", "the kind of model"),
    ],
)
def test_tokenizers_that_find_other_words_are_refused(paired_data, kind, part):
    tree = TREES["wordpiece"]
    trees = TREES | {
        "wordpiece with a token": tree
        | {"added_tokens": [*tree["added_tokens"], tree["added_tokens"][0] | NEW_TOKEN]},
        "word level": tree
        | {"model": {"type": "WordLevel"} | {k: tree["model"][k] for k in ("vocab", "unk_token")}},
    }
    teacher = fast_tokenizer(trees[kind], "another")
    with pytest.raises(ModelError, match=rf"than that of another \(they differ in {part}\)"):
        prepare_pair(paired_data, teacher=teacher)
    assert not Path(paired_data.store).exists()


def test_a_text_in_which_words_are_counted_differently_agrees_nowhere():
    """Which `prepare` refuses before; the token that one side has added is three words there."""
    teacher = word_pieces("<", ">")
    student = word_pieces("<", ">")
    student.add_tokens(["<a>"])
    recipes = recipe_of_pair(student, teacher, max_length=64)
    made = Sequencer(recipes)(["a <a> b", "a b"], "train")["train"]
    places = np.split(made.teacher_columns().places, np.cumsum(made.lengths)[:-1])
    assert (places[0][1:-1] < 0).all()
    assert places[1].tolist() == [0, 1, 2, 3]


def test_its_identity_is_of_both_sides(tmp_path, paired_data):
    def identity(name, teacher):
        data = paired_data.model_copy(update={"store": str(tmp_path / name)})
        store = prepare_pair(data, teacher=teacher)
        return {what: one.digest for what, one in identity_of_store(store).items()}

    one = identity("one", TEACHER)
    assert identity("same", TEACHER) == one
    for name, teacher in (("alone", None), ("of itself", STUDENT)):
        found = identity(name, teacher)
        assert found.keys() == one.keys()
        assert all(found[what] != one[what] for what in one)


# Damage


def shard_files(data: DataConfig) -> list[Path]:
    return sorted(Path(data.store).glob("*/shard-*.arrow"))


def without_digests(data: DataConfig) -> dict:
    """A store in which damage shows only in the numbers themselves; its manifest."""
    path = Path(data.store) / "manifest.json"
    tree = json.loads(path.read_bytes())
    tree |= {"digests": None, "seal": None}
    path.write_text(json.dumps(tree))
    return tree


def change(path: Path, column: str, index: int, value: int) -> None:
    [batch] = read_column(path, column)
    content = bytearray(path.read_bytes())
    place = batch.place + 4 * index
    content[place : place + 4] = np.int32(value).tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize("column", ["teacher_ids", "teacher_places"])
def test_a_changed_byte_is_found_and_its_shard_made_anew(paired_data, column):
    prepare_pair(paired_data)
    path = shard_files(paired_data)[1]
    content = path.read_bytes()
    change(path, column, 3, 0)
    assert path.read_bytes() != content
    with pytest.raises(DataError, match="its content has changed"):
        TokenStore.open(Path(paired_data.store), by_content=True)
    assert finished_store(paired_data, STUDENT, TEACHER) is None
    prepare_pair(paired_data)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("teacher_ids", 1000, "token id 1000 in a vocabulary of {size}"),
        ("teacher_ids", -1, "token id -1 in a vocabulary of {size}"),
        ("teacher_places", 16, "place 16 outside of the teacher's tokens"),
        ("teacher_places", -17, "place -17 outside of the teacher's tokens"),
    ],
)
def test_numbers_that_cannot_be(paired_data, column, value, message):
    prepare_pair(paired_data)
    without_digests(paired_data)
    TokenStore.open(Path(paired_data.store), by_content=True)
    change(shard_files(paired_data)[0], column, 2, value)
    with pytest.raises(DataError) as error:
        TokenStore.open(Path(paired_data.store), by_content=True)
    told = message.format(size=len(TEACHER))
    assert error.value.message == f"{shard_files(paired_data)[0]}: damaged ({told})"


def test_rows_of_other_lengths(paired_data):
    """A place too many in one row and one too few in the next."""
    prepare_pair(paired_data)
    without_digests(paired_data)
    path = shard_files(paired_data)[0]
    [places] = read_column(path, "teacher_places")
    offsets = places.offsets.tobytes()
    content = path.read_bytes()
    assert content.count(offsets) == 2  # those of the student, and these
    moved = places.offsets.copy()
    moved[1] += 1
    at = content.rindex(offsets)
    path.write_bytes(content[:at] + moved.tobytes() + content[at + len(offsets) :])
    with pytest.raises(DataError, match="not a place for every token"):
        TokenStore.open(Path(paired_data.store), by_content=True)


def test_files_of_the_student_alone_are_not_taken(tmp_path, paired_data):
    prepare_pair(paired_data)
    alone = paired_data.model_copy(update={"store": str(tmp_path / "alone")})
    prepare(alone, STUDENT, 1)
    tree = without_digests(paired_data)
    path = shard_files(paired_data)[0]
    shutil.copy(shard_files(alone)[0], path)
    tree["shards"][path.parent.name][0][2] = path.stat().st_size
    (Path(paired_data.store) / "manifest.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"damaged \(.*teacher_ids"):
        TokenStore.open(Path(paired_data.store))


@pytest.mark.parametrize(
    "edit",
    [
        lambda teacher: teacher["shards"]["train"].pop(),
        lambda teacher: teacher["shards"].pop("held_out"),
        lambda teacher: teacher["counts"]["train"].update(agreed=-1),
        lambda teacher: teacher.pop("vocab_size"),
    ],
)
def test_an_edited_record_of_the_teacher(paired_data, edit):
    prepare_pair(paired_data)
    tree = without_digests(paired_data)
    edit(tree["teacher"])
    (Path(paired_data.store) / "manifest.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"manifest\.json: damaged"):
        TokenStore.open(Path(paired_data.store))


def test_a_number_of_tokens_that_is_not_that_of_the_file(paired_data):
    prepare_pair(paired_data)
    tree = without_digests(paired_data)
    tree["teacher"]["shards"]["train"][0] += 1
    (Path(paired_data.store) / "manifest.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match="sequences and tokens instead of"):
        TokenStore.open(Path(paired_data.store))
