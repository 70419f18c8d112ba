"""What tests of paired stores share: a teacher, a student with half of its pieces, texts."""

import dataclasses
import json
from collections.abc import Iterator

from token_stores import tiny_tokenizer
from tokenizer_kinds import (
    AWKWARD,
    KINDS,
    awkward_texts,
    fast_tokenizer,
    half_of,
    teacher_tree,
)
from transformers import PreTrainedTokenizerFast

from distilcli.config.data import DataConfig
from distilcli.corpus.prepare import prepare
from distilcli.corpus.recipe import make_recipe
from distilcli.corpus.store import Split, TokenStore
from distilcli.text.tokenizers import text_backend

TREES = {kind: teacher_tree(kind) for kind in KINDS}
TEACHER = fast_tokenizer(TREES["wordpiece"], "the-teacher")
STUDENT = half_of(TEACHER)
TEXTS = [*awkward_texts(110, seed=3), *AWKWARD]


def prepare_pair(data: DataConfig, num_proc: int = 1, teacher=TEACHER) -> TokenStore:
    """The store of STUDENT and a teacher, or of STUDENT alone."""
    return prepare(data, STUDENT, num_proc, teacher_tokenizer=teacher)


def rows(split: Split) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Of each sequence: the student's tokens, the teacher's, and places."""
    for index in range(len(split)):
        ids, places = split.teacher(index)
        assert not ids.flags.writeable
        assert not places.flags.writeable
        yield split.tokens(index).tolist(), ids.tolist(), places.tolist()


def recipe_of_pair(student, teacher, max_length: int, min_length: int = 3):
    """How both sides read the same texts."""
    recipes = (
        make_recipe(
            json.dumps(text_backend(one)),
            (one.cls_token_id, one.sep_token_id),
            (max_length, min_length),
            0.0,
        )
        for one in (student, teacher)
    )
    own, others = recipes
    return dataclasses.replace(own, teacher=others)


def word_pieces(*pieces: str) -> PreTrainedTokenizerFast:
    """Single letters, and some pieces."""
    return tiny_tokenizer(pieces)
