"""Teachers with tokenizers of their own: outputs are what transformers gives, where they are read.

Expected values come from plain calls of the tokenizer and of the model, one input at a time.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from own_tokenizer_models import TOKENIZERS, random_model
from torch import Tensor
from transformers import PreTrainedModel, pipeline

from distilcli.models.own_tokens import (
    HypothesisReader,
    TextReader,
    WindowReader,
    WordReader,
    by_characters,
)
from distilcli.models.padded_teacher import PaddedTeacher
from distilcli.tasks.shown import ShownWindow, ShownWords

LEAST = float(np.log(np.finfo(np.float32).tiny))
CLASSES = ["a", "b", "c"]
PAIRS = [("ba be bi", "du"), ("Fo .", "gu ga go ge gi gu"), ("ka " * 20, "be"), ("ba", "\u00e9")]
SENTENCES = [["ba", "bexy", "BI"], ["du"], ["\u00e9t", "fo", "gu-ga", "."], ["ka"] * 9]
CONTEXT = "ba bexy, bi. fo gu"


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def teacher_of(model: PreTrainedModel, reader: type, head: str, longest: int | None = None):
    tokenizer = TOKENIZERS[model.config.model_type]()
    return PaddedTeacher(model, tokenizer, head, reader(tokenizer, longest), None)


@torch.no_grad()
def plain(model: PreTrainedModel, *texts: object, **options: object):
    """transformers' own way, a single input: its outputs, and what the tokenizer gave."""
    encoded = TOKENIZERS[model.config.model_type]()(*texts, return_tensors="pt", **options)
    return model(**encoded), encoded


@pytest.mark.parametrize("model_type", ["deberta-v2", "albert", "roberta", "mpnet", "bart", "gpt2"])
def test_texts_and_pairs_are_those_of_a_plain_call(model_type):
    model = random_model(model_type, "sequence", CLASSES)
    for shown in (PAIRS, [pair[:1] for pair in PAIRS]):
        expected = torch.cat([plain(model, *texts)[0].logits for texts in shown])
        assert (expected.diff(dim=0).abs().max(dim=1).values > 1e-3).all()
        teacher = teacher_of(model, TextReader, "sequence")
        for tokens in (1, 60, 10_000):  # alone, two or three, all
            close(teacher.run(shown, tokens), expected)
        assert teacher.num_cut == 0


def test_token_types_are_given_where_the_tokenizer_gives_them():
    model = random_model("electra", "sequence", CLASSES)
    teacher = teacher_of(model, TextReader, "sequence")
    expected = torch.cat([plain(model, *texts)[0].logits for texts in PAIRS])
    close(teacher.run(PAIRS, 10_000), expected)
    without = torch.cat([plain(model, *t, return_token_type_ids=False)[0].logits for t in PAIRS])
    assert (expected - without).abs().max() > 1e-2


def test_a_text_that_is_too_long_is_cut_as_the_tokenizer_cuts_it():
    model = random_model("roberta", "sequence", CLASSES)
    teacher = teacher_of(model, TextReader, "sequence", 12)
    cut = {"truncation": True, "max_length": 12}
    expected = torch.cat([plain(model, *texts, **cut)[0].logits for texts in PAIRS])
    close(teacher.run(PAIRS, 10_000), expected)
    lengths = [len(TOKENIZERS["roberta"]()(*texts)["input_ids"]) for texts in PAIRS]
    assert teacher.num_cut == sum(length > 12 for length in lengths) == 2


def test_which_end_of_a_text_is_cut_is_a_part_of_how_it_is_read():
    found = []
    for side in ("right", "left"):
        tokenizer = TOKENIZERS["roberta"]()
        tokenizer.truncation_side = side
        model = random_model("roberta", "sequence", CLASSES)
        teacher = PaddedTeacher(model, tokenizer, "sequence", TextReader(tokenizer, 6), None)
        found.append((teacher.reading(), teacher.run(PAIRS, 99)))
    assert not torch.equal(found[0][1], found[1][1])
    assert found[0][0] != found[1][0]


def test_classes_come_in_the_order_of_the_task():
    model = random_model("albert", "sequence", CLASSES)
    tokenizer = TOKENIZERS["albert"]()
    own = PaddedTeacher(model, tokenizer, "sequence", TextReader(tokenizer, None), None)
    other = PaddedTeacher(model, tokenizer, "sequence", TextReader(tokenizer, None), [2, 0, 1])
    assert torch.equal(other.run(PAIRS, 99), own.run(PAIRS, 99)[:, [2, 0, 1]])
    assert own.reading() != other.reading()


def test_filling_up_on_the_left_changes_nothing_where_the_tokenizer_does_so():
    """DeBERTa's positions are relative: a token may stand anywhere."""
    model = random_model("deberta-v2", "token", CLASSES)
    tokenizer = TOKENIZERS["deberta-v2"]()
    shown = [ShownWords(words, range(len(words))) for words in SENTENCES]
    right = PaddedTeacher(model, tokenizer, "token", WordReader(tokenizer, None), None)
    expected = right.run(shown, 10_000)
    tokenizer.padding_side = "left"
    left = PaddedTeacher(model, tokenizer, "token", WordReader(tokenizer, None), None)
    close(left.run(shown, 10_000), expected)
    assert left.reading() != right.reading()


def words_of(model: PreTrainedModel, words: Sequence[str]) -> Tensor:
    """Logits at the first token of each word, by transformers' own count of words."""
    options = {"is_split_into_words": True}
    tokenizer = TOKENIZERS[model.config.model_type]()
    if model.config.model_type == "roberta":
        # As token classification with RoBERTa asks for it: each word is one after a space.
        ids = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
        firsts = np.cumsum([1, *map(len, ids)])[:-1]
        row = [tokenizer.cls_token_id, *(i for word in ids for i in word), tokenizer.sep_token_id]
        with torch.no_grad():
            return model(input_ids=torch.tensor([row])).logits[0, firsts]
    found, encoded = plain(model, list(words), **options)
    places = [encoded.word_ids(0).index(word) for word in range(len(words))]
    return found.logits[0, places]


@pytest.mark.parametrize("model_type", ["deberta-v2", "albert", "roberta"])
def test_words_are_read_at_the_first_token_of_each(model_type):
    model = random_model(model_type, "token", CLASSES)
    expected = [words_of(model, words) for words in SENTENCES]
    teacher = teacher_of(model, WordReader, "token")
    every = [ShownWords(words, range(len(words))) for words in SENTENCES]
    close(teacher.run(every, 40), torch.cat(expected))
    some = [ShownWords(words, range(0, len(words), 2)) for words in SENTENCES]
    close(teacher.run(some, 10_000), torch.cat([rows[::2] for rows in expected]))


def test_words_that_are_too_many_are_read_in_several_inputs():
    model = random_model("deberta-v2", "token", CLASSES)
    words = ["ba", "be", "bi", "bo", "bu", "da", "xyxyxyxyxyx", "de"]
    # Room for 6 tokens: five words of one token each, a word of 12 that is cut, a word.
    teacher = teacher_of(model, WordReader, "token", 8)
    found = teacher.run([ShownWords(words, [0, 4, 6, 7])], 99)
    tokenizer = TOKENIZERS["deberta-v2"]()
    ids = tokenizer(["xyxyxyxyxyx"], is_split_into_words=True, add_special_tokens=False)
    cut = [tokenizer.cls_token_id, *ids["input_ids"][:6], tokenizer.sep_token_id]
    assert len(ids["input_ids"]) > 6
    with torch.no_grad():
        of_long = model(input_ids=torch.tensor([cut])).logits[0, 1:2]
    first = words_of(model, words[:6])[[0, 4]]
    close(found, torch.cat([first, of_long, words_of(model, ["de"])]))
    assert teacher.num_cut == 1


# Answers


def window_of(tokenizer, question: str, context: str, begin: int = 0) -> ShownWindow:
    """What a student with this tokenizer reads: the context from a character on."""
    encoded = tokenizer(question, context[begin:], return_offsets_mapping=True)
    inside = [i for i, text in enumerate(encoded.sequence_ids(0)) if text == 1]
    spans = np.array(encoded["offset_mapping"], np.int32)[inside] + begin
    return ShownWindow(question, context, spans, inside[0], len(encoded["input_ids"]))


@pytest.mark.parametrize("model_type", ["electra", "roberta", "deberta-v2"])
def test_of_the_same_tokens_an_answer_has_the_logits_themselves(model_type):
    model = random_model(model_type, "span", ["start", "end"])
    tokenizer = TOKENIZERS[model_type]()
    windows = [window_of(tokenizer, "bo", CONTEXT), window_of(tokenizer, "du da", CONTEXT, 3)]
    found = teacher_of(model, WindowReader, "span").run(windows, 10_000)
    ends = np.cumsum([window.num_tokens for window in windows])[:-1]
    for rows, window in zip(found.split([*ends, len(found) - ends[-1]]), windows, strict=True):
        outputs, _ = plain(model, window.question, window.piece)
        logits = torch.stack([outputs.start_logits[0], outputs.end_logits[0]], dim=1)
        context = slice(window.first, window.first + len(window.spans))
        if model_type != "deberta-v2":  # whose tokens hold the space before them
            close(rows[context], logits[context])
        outside = torch.ones(len(logits), dtype=torch.bool)
        outside[context] = False
        close(rows[0], logits[outside].logsumexp(dim=0))
        rest = outside.clone()
        rest[0] = False
        floor = (logits.logsumexp(dim=0) + LEAST).expand(int(rest.sum()), 2)
        close(rows[rest], floor)
        close(rows.logsumexp(dim=0), logits.logsumexp(dim=0))


def test_answers_go_by_characters_by_hand():
    """Context "abc def": the student has ab, c, def; the model a, bc, " d", ef."""
    spans = np.array([[0, 2], [2, 3], [4, 7]], np.int32)
    window = ShownWindow("q", "abc def", spans, first=3, num_tokens=7)
    of_model = np.array([[-1, -1], [0, 1], [1, 3], [3, 5], [5, 7], [-1, -1]])
    probabilities = np.array(
        [[0.1, 0.2], [0.2, 0.05], [0.3, 0.25], [0.15, 0.1], [0.05, 0.3], [0.2, 0.1]]
    )
    found = by_characters(np.log(probabilities) + 3.0, of_model, window)
    none = np.exp(np.float64(LEAST))
    expected = [
        [0.1 + 0.2, 0.2 + 0.1],  # [CLS]: what the model says of its special tokens
        [none, none],
        [none, none],
        [0.2 + 0.3, 0.05],  # ab: both a and bc begin in it, a alone ends in it
        [none, 0.25],  # c: bc ends in it
        [0.15 + 0.05, 0.1 + 0.3],  # def: " d" begins with the blank before it
        [none, none],
    ]
    np.testing.assert_allclose(found - 3.0, np.log(expected), rtol=1e-5)


@given(st.data())
def test_no_probability_is_lost_between_two_ways_to_cut_a_context(data):
    """Whatever the cuts, blanks and window: starts and ends keep their sums and their order."""
    length = data.draw(st.integers(1, 12))

    def cut() -> np.ndarray:
        inner = data.draw(st.sets(st.integers(0, length - 1), max_size=length))
        ends = sorted({*inner, 0, length})
        return np.array(list(pairwise(ends)), np.int64)

    student, model = cut(), cut()
    first = data.draw(st.integers(1, 3))
    window = ShownWindow("q", "x" * length, student, first, first + len(student) + 1)
    outside = np.full((2, 2), -1)
    spans = np.concatenate([outside, model])
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    outputs = random.normal(size=(len(spans), 2)) * 5
    found = by_characters(outputs, spans, window)
    assert found.dtype == np.float32
    assert found.shape == (window.num_tokens, 2)
    sums = np.logaddexp.reduce(found.astype(np.float64)), np.logaddexp.reduce(outputs)
    np.testing.assert_allclose(*sums, rtol=1e-5, atol=1e-5)
    if len(student) == len(model) and (student == model).all():
        np.testing.assert_allclose(found[first:-1], outputs[2:], rtol=1e-5, atol=1e-5)


def test_what_a_model_does_not_see_of_a_piece_has_the_least_probability():
    model = random_model("deberta-v2", "span", ["start", "end"])
    window = window_of(TOKENIZERS["electra"](), "bo", "ba be bi " * 6)
    teacher = teacher_of(model, WindowReader, "span", 12)
    rows = teacher.run([window], 99)
    assert teacher.num_cut == 1
    # [CLS] bo [SEP] and eight words, then [SEP].
    seen = slice(window.first, window.first + 8)
    assert (rows[seen] > rows.logsumexp(dim=0) - 40).all()
    close(rows[seen.stop :], (rows.logsumexp(dim=0) + LEAST).expand(len(rows) - seen.stop, 2))


# Models of entailment


ENTAILMENT = ["contradiction", "neutral", "ENTAILMENT"]
SENTENCE = "this is ba {} ."


@pytest.mark.parametrize("model_type", ["deberta-v2", "bart"])
def test_hypotheses_are_those_of_the_zero_shot_pipeline(model_type):
    model = random_model(model_type, "sequence", ENTAILMENT)
    tokenizer = TOKENIZERS[model_type]()
    classes = ["du", "gu ga", "ko"]
    texts = ["ba be bi bo", "fo fu", "ka ke ki " * 4]
    asked = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer, device="cpu")
    for opposite, multi_label in ((None, False), (0, True)):
        hypotheses = [SENTENCE.replace("{}", name) for name in classes]
        reader = HypothesisReader(tokenizer, None, hypotheses, 2, opposite)
        teacher = PaddedTeacher(model, tokenizer, "sequence", reader, None)
        logits = teacher.run([(text,) for text in texts], 60)
        assert logits.shape == (3, 3)
        found = logits.sigmoid() if multi_label else logits.softmax(dim=1)
        for row, text in zip(found, texts, strict=True):
            answer = asked(text, classes, hypothesis_template=SENTENCE, multi_label=multi_label)
            scores = dict(zip(answer["labels"], answer["scores"], strict=True))
            close(row, torch.tensor([scores[name] for name in classes]))


def test_a_long_premise_is_cut_and_no_hypothesis():
    model = random_model("deberta-v2", "sequence", ENTAILMENT)
    tokenizer = TOKENIZERS["deberta-v2"]()
    reader = HypothesisReader(tokenizer, 16, ["du da de", "gu"], 2, None)
    teacher = PaddedTeacher(model, tokenizer, "sequence", reader, None)
    text = "ba be bi bo bu " * 5
    found = teacher.run([(text,)], 99)
    cut = {"truncation": "only_first", "max_length": 16}
    expected = [plain(model, text, one, **cut)[0].logits[0, 2] for one in ("du da de", "gu")]
    close(found, torch.stack(expected)[None])
    assert teacher.num_cut == 2
