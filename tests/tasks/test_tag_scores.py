"""Scores of tags and of the entities that they mark, against their definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_values import near, one_hot
from task_rows import open_rows
from tiny_tasks import pair_tokenizer

from distilcli.tasks.entities import entities, entity_f1

TOKENIZER = pair_tokenizer()


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", set()),
        ("O O", set()),
        ("B-X", {("X", 0, 0)}),
        ("O B-X I-X O", {("X", 1, 2)}),
        ("O B-X I-X", {("X", 1, 2)}),  # the end of a sentence ends it
        ("B-X B-X I-X", {("X", 0, 0), ("X", 1, 2)}),
        ("I-X I-X O", {("X", 0, 1)}),  # begins without B-
        ("O I-X O I-X", {("X", 1, 1), ("X", 3, 3)}),
        ("B-X I-Y I-Y", {("X", 0, 0), ("Y", 1, 2)}),
        ("I-X B-X", {("X", 0, 0), ("X", 1, 1)}),
        ("B-X I-Y I-X", {("X", 0, 0), ("Y", 1, 1), ("X", 2, 2)}),
        ("B-X I-X B-Y I-Y I-Y", {("X", 0, 1), ("Y", 2, 4)}),
        ("B-a-b I-a-b I-a", {("a-b", 0, 1), ("a", 2, 2)}),  # a type may have a hyphen
    ],
)
def test_entities_of_tags(tags, expected):
    """Which spans a row of tags marks, in every scheme."""
    assert entities(tags.split()) == expected


_TAGS = st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"]), max_size=10)


def entities_by_definition(tags):
    """Every stretch that begins as an entity does, goes on with I- and cannot be made longer."""
    found = set()
    for kind in "XY":
        inside = [tag == f"I-{kind}" for tag in tags]
        any_of_kind = [tag[2:] == kind for tag in tags]
        for first in range(len(tags)):
            follows = first > 0 and any_of_kind[first - 1]
            if not any_of_kind[first] or (inside[first] and follows):
                continue
            for last in range(first, len(tags)):
                is_whole = last + 1 == len(tags) or not inside[last + 1]
                if all(inside[first + 1 : last + 1]) and is_whole:
                    found.add((kind, first, last))
    return found


@given(_TAGS)
def test_entities_are_those_of_the_definition(tags):
    assert entities(tags) == entities_by_definition(tags)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        (["B-X I-X O"], ["B-X I-X O"], 1),
        (["B-X I-X O"], ["B-X O O"], 0),  # too short
        (["B-X I-X O"], ["B-Y I-Y O"], 0),  # of another type
        (["B-X I-X O"], ["I-X I-X O"], 1),  # the same entity, written in another way
        (["B-X O B-X"], ["B-X O O"], 2 / 3),  # 1 of 1, 1 of 2
        (["B-X O B-X", "B-Y O"], ["B-X B-X O", "B-Y B-Y"], 4 / 7),  # 2 of 4, 2 of 3
        (["O O", "B-X"], ["B-X O", "O"], 0),  # the same place in another sentence
        (["O O"], ["O O"], 0),
        (["O O"], ["B-X O"], 0),
    ],
)
def test_entity_f1(truth, predicted, expected):
    """F1 over whole entities is what counting by hand gives."""
    sides = [[sentence.split() for sentence in side] for side in (truth, predicted)]
    assert entity_f1(*sides) == near(expected)


# Tags of words

_NAMES = ["B-X", "I-X", "O"]


def tagging(folder, dev, **settings):
    """A task whose dev sentences have these tags; each word is one token."""
    rows = [
        [{"tokens": ["ba"] * len(tags.split()), "tags": tags.split()} for tags in split]
        for split in ([" ".join(settings.get("labels", _NAMES))], dev)
    ]
    return open_rows(folder, TOKENIZER, "tagging", *rows, **settings)


def tag_logits(task, *sentences):
    chosen = [task.labels.index(tag) for sentence in sentences for tag in sentence.split()]
    return one_hot(chosen, len(task.labels))


def test_scores_of_tags(tmp_path):
    """Accuracy, macro F1 and entity F1 of tags are what counting by hand gives."""
    task = tagging(tmp_path, ["B-X I-X O O", "O B-X"])
    outputs = tag_logits(task, "B-X O O O", "O B-X")
    # B-X: all of 2; I-X: its one missed; O: 3 found, 1 in error.
    assert task.scores(outputs) == {
        "accuracy": near(5 / 6),
        "macro_f1": near((1 + 0 + 6 / 7) / 3),
        "entity_f1": near(2 * 1 / (2 + 2)),
    }


def test_tags_without_entities_have_no_score_of_entities(tmp_path):
    task = tagging(tmp_path, ["NOUN VERB", "NOUN"], labels=["VERB", "NOUN"])
    outputs = tag_logits(task, "NOUN VERB", "VERB")
    assert task.scores(outputs) == {"accuracy": near(2 / 3), "macro_f1": near(2 / 3)}


def test_entities_do_not_run_over_the_end_of_a_sentence(tmp_path):
    task = tagging(tmp_path, ["O B-X", "I-X O"])
    outputs = tag_logits(task, "O B-X", "O O")
    assert task.scores(outputs)["entity_f1"] == near(2 / 3)  # one of two; together, none of one


def test_a_sentence_in_several_inputs_is_scored_as_one(tmp_path):
    """Inputs of 8 tokens have room for 6 words: the entity lies in two inputs."""
    task = tagging(tmp_path, ["O O O O O B-X I-X O O", "B-X O"], max_length=8)
    assert task.dev.lengths.tolist() == [8, 5, 4]
    whole = tag_logits(task, "O O O O O B-X I-X O O", "B-X O")
    assert task.scores(whole)["entity_f1"] == 1
    # By inputs, the part in the first one would count as found.
    part = tag_logits(task, "O O O O O B-X O O O", "B-X O")
    assert task.scores(part)["entity_f1"] == near(1 / 2)


def test_constant_tags_are_the_most_frequent(tmp_path):
    rows = [{"tokens": ["ba"] * 5, "tags": ["O", "B-X", "O", "I-X", "O"]}]
    task = open_rows(tmp_path, TOKENIZER, "tagging", rows, [rows[0], rows[0]])
    outputs = task.constant_outputs()
    assert outputs.shape == (10, 3)
    assert task.scores(outputs) == {
        "accuracy": near(0.6),
        "macro_f1": near(6 / 8 / 3),
        "entity_f1": 0.0,
    }
