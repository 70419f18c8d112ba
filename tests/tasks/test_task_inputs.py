"""Inputs of tasks: laid end to end, cut into windows and at words, with targets in their place."""

import pickle
import tempfile
from dataclasses import replace
from itertools import pairwise
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from task_rows import open_rows, question
from tiny_experiments import WORDS
from tiny_tasks import pair_tokenizer

from distilcli.config.tasks import QuestionAnsweringTask
from distilcli.errors import DataError
from distilcli.tasks.inputs import join, pack_inputs
from distilcli.tasks.question_answering import Question, _inputs

TOKENIZER = pair_tokenizer()
UNK, CLS, SEP = (TOKENIZER.convert_tokens_to_ids(name) for name in ("[UNK]", "[CLS]", "[SEP]"))


def rows_of(inputs, of="token_ids"):
    """The tokens, or their types, of each input."""
    ends = inputs.offsets.tolist()
    return [getattr(inputs, of)[begin:end].tolist() for begin, end in pairwise(ends)]


def positions_of(inputs):
    ends = inputs.output_offsets.tolist()
    return [inputs.output_positions[begin:end].tolist() for begin, end in pairwise(ends)]


def pieces_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


# End to end


@st.composite
def lists(draw):
    """Ids, types and output positions of a few inputs, and whether targets are of outputs."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=7))
    ids = [[draw(st.integers(0, 2**31 - 1)) for _ in range(size)] for size in sizes]
    types = [[draw(st.integers(0, 1)) for _ in range(size)] for size in sizes]
    of_rows = draw(st.booleans())
    if of_rows:
        positions = [sorted(draw(st.sets(st.integers(0, size - 1)))) for size in sizes]
    else:
        positions = [list(range(size)) for size in sizes]
    return ids, types, positions, of_rows


def joined(ids, types, positions, of_rows):
    """Inputs of which each target is a different pair of numbers."""
    number = sum(map(len, positions)) if of_rows else len(ids)
    return join(ids, types, positions, np.arange(number * 2, dtype=np.int64).reshape(number, 2))


@given(lists())
def test_joined_inputs_are_the_lists(given_lists):
    ids, types, positions, of_rows = given_lists
    inputs = joined(*given_lists)
    assert len(inputs) == len(ids)
    assert rows_of(inputs) == ids
    assert rows_of(inputs, "token_types") == types
    assert positions_of(inputs) == positions
    assert inputs.lengths.tolist() == [len(row) for row in ids]
    assert inputs.num_outputs_of.tolist() == [len(row) for row in positions]
    assert inputs.offsets[0] == inputs.output_offsets[0] == 0
    if of_rows or max(inputs.lengths) > 1:  # of inputs of one token each it is the same
        assert inputs.targets_are_of_rows == of_rows


def test_no_inputs_are_joined_too():
    inputs = join([], [], [], np.zeros(0, np.int64))
    assert len(inputs) == len(inputs.token_ids) == len(inputs.output_positions) == 0


@given(lists(), st.data())
def test_a_packed_batch_is_that_of_a_naive_loop(given_lists, data):
    ids, types, positions, of_rows = given_lists
    inputs = joined(*given_lists)
    # In any order, also twice.
    samples = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=9))
    first_row = [sum(len(row) for row in positions[:sample]) for sample in range(len(ids))]
    expected = {"ids": [], "types": [], "positions": [], "outputs": [], "targets": []}
    boundaries = [0]
    for sample in samples:
        begin = boundaries[-1]
        for index, token in enumerate(ids[sample]):
            expected["ids"].append(token)
            expected["types"].append(types[sample][index])
            expected["positions"].append(index)
        for index, position in enumerate(positions[sample]):
            expected["outputs"].append(begin + position)
            if of_rows:
                row = first_row[sample] + index
                expected["targets"].append([2 * row, 2 * row + 1])
        if not of_rows:
            expected["targets"].append([2 * sample, 2 * sample + 1])
        boundaries.append(begin + len(ids[sample]))
    batch = pack_inputs(inputs, samples)
    assert batch.input_ids.tolist() == [expected["ids"]]
    assert batch.token_type_ids.tolist() == [expected["types"]]
    assert batch.position_ids.tolist() == [expected["positions"]]
    assert batch.output_positions.tolist() == expected["outputs"]
    assert batch.targets.tolist() == expected["targets"]
    assert batch.boundaries.tolist() == boundaries
    assert batch.lengths == tuple(len(ids[sample]) for sample in samples)
    assert batch.sample_ids == tuple(samples)
    assert batch.num_tokens == len(expected["ids"])
    assert batch.num_outputs == len(expected["outputs"])
    # What embeddings and indices must be.
    whole = (batch.input_ids, batch.token_type_ids, batch.position_ids, batch.output_positions)
    assert {tensor.dtype for tensor in whole} == {torch.int64}


@pytest.fixture
def some_inputs():
    ids = [[2, 7, 8, 3], [2, 9, 3], [2, 5, 6, 7, 3]]
    types = [[0, 0, 1, 1], [0, 0, 0], [0, 0, 0, 1, 1]]
    targets = np.array([[0.5, 1], [0, 0], [1, 0]], np.float32)
    return join(ids, types, [[0]] * 3, targets)


@pytest.mark.parametrize("hidden", [None, np.full((7, 4), 0.5, np.float16)])
def test_a_batch_brings_what_is_known_of_the_teacher(some_inputs, hidden):
    outputs = np.array([[1, 2], [3, 4]], np.float32)
    batch = pack_inputs(some_inputs, [1, 0], (outputs, hidden))
    assert batch.teacher_outputs.tolist() == [[1, 2], [3, 4]]
    assert (batch.teacher_hidden is None) == (hidden is None)
    assert hidden is None or batch.teacher_hidden.shape == (7, 4)
    assert pack_inputs(some_inputs, [1, 0]).teacher_outputs is None


@pytest.mark.parametrize("with_teacher", [False, True])
def test_a_batch_travels_between_processes_by_value(some_inputs, with_teacher):
    """Tensors among processes hold a file descriptor each, and would run out of them."""
    known = (np.ones((2, 2), np.float32), np.ones((9, 4), np.float16)) if with_teacher else None
    batch = pack_inputs(some_inputs, [0, 2], known)
    sent = bytes(ForkingPickler.dumps(batch))
    arrived = ForkingPickler.loads(sent)
    tensors = {key: value for key, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    assert len(sent) > sum(tensor.nbytes for tensor in tensors.values())
    assert vars(arrived).keys() == vars(batch).keys()
    for key, value in vars(batch).items():
        found = vars(arrived)[key]
        if key in tensors:
            assert found.dtype == value.dtype
            assert torch.equal(found, value)
        else:
            assert found == value
    assert ("teacher_hidden" in tensors) == with_teacher


def test_inputs_go_to_the_workers_unchanged(some_inputs):
    arrived = pickle.loads(pickle.dumps(some_inputs))
    for name, array in vars(some_inputs).items():
        assert vars(arrived)[name].dtype == array.dtype
        assert np.array_equal(vars(arrived)[name], array)
    assert arrived.fingerprint() == some_inputs.fingerprint()


def test_the_fingerprint_is_of_what_a_model_is_shown_and_where_it_is_read():
    ids, types, positions = [[2, 7, 3], [2, 8, 3]], [[0, 0, 0], [0, 0, 1]], [[1, 2], [1]]
    targets = np.array([0, 1, 1])
    inputs = join(ids, types, positions, targets)
    others = [
        join([[2, 9, 3], ids[1]], types, positions, targets),
        join(ids, [types[0], [0, 0, 0]], positions, targets),
        join([[2, 7], [3, 2, 8, 3]], [[0, 0], [0, 0, 0, 1]], positions, targets),
        join(ids, types, [[0, 2], [1]], targets),
    ]
    assert len({one.fingerprint() for one in [inputs, *others]}) == 5
    again = join(ids, types, positions, targets)
    assert again.fingerprint() == inputs.fingerprint()
    assert replace(inputs, targets=targets + 1).fingerprint() == inputs.fingerprint()


def test_the_fingerprint_tells_of_which_input_an_output_is():
    ids, types = [[2, 7, 3], [2, 8, 3]], [[0, 0, 0], [0, 0, 0]]
    first, second = (
        join(ids, types, positions, np.array([0, 1, 1]))
        for positions in ([[1, 2], [1]], [[1], [2, 1]])
    )
    assert first.fingerprint() != second.fingerprint()


# Windows of a context


def windows_config(**settings):
    shape = {"max_length": 16, "stride": 4, "max_question_length": 4}
    files = {"files": ["unused.json"]}
    section = {"kind": "question-answering", "train": files, "dev": files} | shape | settings
    return QuestionAnsweringTask.model_validate(section)


def windows_of(context, answer=None, text="bo", **settings):
    """Inputs and windows of one question; the answer is (text, first character)."""
    answers = [answer or (context[:1], 0)]
    return _inputs([Question(text, context, answers)], TOKENIZER, windows_config(**settings))[:2]


# Of one token, of several, one that the vocabulary cannot spell, with punctuation, in capitals.
_SPELT = ["ba", "be", "BI", "fo", "gu", "xyz", "babe", "9", "\u00e9", "du.", "(ka"]


def word_lists(words, max_size=40):
    """Lists of all sizes, where plain ones would mostly be short."""
    sizes = st.integers(1, max_size)
    return sizes.flatmap(lambda n: st.lists(st.sampled_from(words), min_size=n, max_size=n))


_TEXTS = word_lists(_SPELT).map(" ".join)


@given(_TEXTS, word_lists(_SPELT, 6).map(" ".join), st.data())
def test_windows_hold_every_token_and_overlap_by_the_stride(context, text, data):
    stride = data.draw(st.integers(0, 8))
    max_length = data.draw(st.integers(stride + 8, stride + 20).filter(lambda size: size >= 16))
    max_question_length = data.draw(st.integers(1, min(9, max_length - stride - 4)))
    whole = TOKENIZER(context, add_special_tokens=False, return_offsets_mapping=True)
    asked = pieces_of(text)[:max_question_length]
    room = max_length - len(asked) - 3
    inputs, windows = windows_of(
        context,
        text=text,
        stride=stride,
        max_length=max_length,
        max_question_length=max_question_length,
    )
    begin, seen = 0, 0
    for row, types, window in zip(
        rows_of(inputs), rows_of(inputs, "token_types"), windows, strict=True
    ):
        part = whole["input_ids"][begin : begin + room]
        assert row == [CLS, *asked, SEP, *part, SEP]
        assert types == [0] * (len(asked) + 2) + [1] * (len(part) + 1)
        assert window.question == 0
        assert window.first == len(asked) + 2
        spans = [list(span) for span in whole["offset_mapping"][begin : begin + room]]
        assert window.spans.tolist() == spans
        seen = begin + len(part)
        begin += room - stride
    assert seen == len(whole["input_ids"])
    # The last one was needed.
    assert len(windows) == 1 or begin - (room - stride) + stride < seen
    assert positions_of(inputs) == [list(range(len(row))) for row in rows_of(inputs)]


@given(word_lists(WORDS), st.data())
def test_targets_point_to_the_answer_or_to_the_first_token(words, data):
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(len(words) - 1, first + 6)))
    stride = data.draw(st.integers(0, 8))
    context, answer = " ".join(words), " ".join(words[first : last + 1])
    # A word is two letters and a blank, and one token.
    inputs, windows = windows_of(context, (answer, 3 * first), stride=stride)
    room, found = 16 - 1 - 3, 0
    for index, (start, end) in enumerate(inputs.targets.tolist()):
        begin = index * (room - stride)
        if begin <= first and last < begin + room:
            assert [start, end] == [3 + first - begin, 3 + last - begin]
            assert rows_of(inputs)[index][start : end + 1] == pieces_of(answer)
            spans = windows[index].spans
            assert context[spans[start - 3, 0] : spans[end - 3, 1]] == answer
            found += 1
        else:
            assert [start, end] == [0, 0]
    # An answer of no more tokens than the overlap and one is whole in some window.
    assert found or last - first > stride
    assert inputs.targets.dtype == np.int64


@pytest.mark.parametrize(
    ("context", "answer", "expected"),
    [
        ("ba, be", ("be", 4), [5, 5]),
        ("(ba) be", ("ba", 1), [4, 4]),  # punctuation is a token of its own
        ("baxy be", ("xy", 2), [4, 5]),  # the last pieces of a word
        ("baxy be", ("y be", 3), [5, 6]),
        ("babe be", ("abe", 1), [3, 5]),  # not whole pieces: all that it touches
        ("ba be be", ("be", 6), [5, 5]),  # not the first place where the word stands
        ("ba be bi", (" be ", 2), [4, 4]),
        ("\u00e9 ba \u00fc be", ("be", 7), [6, 6]),
    ],
)
def test_targets_of_answers_within_words(context, answer, expected):
    assert context[answer[1] :].startswith(answer[0])
    inputs, _ = windows_of(context, answer)
    assert inputs.targets.tolist() == [expected]


@pytest.mark.parametrize(
    ("context", "answer", "expected"),
    [
        (" ba be", (" ba", 0), [3, 3]),
        ("ba be\n", ("be\n", 3), [4, 4]),
        ("\u200bba be", ("\u200bba be", 0), [3, 4]),
    ],
)
def test_an_answer_with_blanks_at_the_edge_of_the_context_is_found(context, answer, expected):
    """No token holds the blank, but every token of the answer is in the window."""
    inputs, _ = windows_of(context, answer)
    assert inputs.targets.tolist() == [expected]


@pytest.mark.parametrize("blanks", ["", " "])
def test_an_answer_is_found_up_to_the_edge_of_a_window(blanks):
    words = WORDS[:20]  # the windows are of words 0 to 11 and 8 to 19
    context = " ".join(words)
    answer = f"{words[10]} {words[11]}{blanks}"
    inputs, _ = windows_of(context, (answer, 30))
    assert inputs.targets.tolist() == [[13, 14], [5, 6]]
    answer = f"{blanks}{words[8]} {words[9]}"
    inputs, _ = windows_of(context, (answer, 24 - len(blanks)))
    assert inputs.targets.tolist() == [[11, 12], [3, 4]]


def test_an_answer_that_is_partly_in_a_window_is_not_found_in_it():
    words = WORDS[:20]  # the windows are of words 0 to 11 and 8 to 19
    targets = {(11, 12): [[0, 0], [6, 7]], (7, 8): [[10, 11], [0, 0]], (7, 12): [[0, 0]] * 2}
    for (first, last), expected in targets.items():
        answer = " ".join(words[first : last + 1])
        inputs, _ = windows_of(" ".join(words), (answer, 3 * first))
        assert inputs.targets.tolist() == expected


def test_the_first_of_several_answers_is_the_target():
    answers = [("bi", 6), ("ba", 0)]
    inputs, _, _ = _inputs([Question("bo", "ba be bi", answers)], TOKENIZER, windows_config())
    assert inputs.targets.tolist() == [[5, 5]]


def test_windows_belong_to_their_questions_however_many_there_are():
    """Questions are tokenized in parts of 256."""
    long = " ".join(WORDS[:19])  # 20 words are two windows
    asked = []
    for index in range(520):
        word = WORDS[index % 40]
        context = f"{word} {long}" if index % 100 == 7 else f"ki {word}"
        asked.append(Question("bo", context, [(word, context.index(word))]))
    inputs, windows, _ = _inputs(asked, TOKENIZER, windows_config())
    expected = [index for index in range(520) for _ in range(2 if index % 100 == 7 else 1)]
    assert [window.question for window in windows] == expected
    assert len(inputs) == len(expected)
    rows, earlier = rows_of(inputs), -1
    for number, (index, row) in enumerate(zip(expected, rows, strict=True)):
        if index != earlier:  # the answer is in the first window
            start, end = inputs.targets[number]
            assert row[start : end + 1] == pieces_of(WORDS[index % 40])
        earlier = index


def test_a_question_without_tokens_still_has_its_context():
    inputs, windows = windows_of("ba be", ("be", 3), text="\u200b")
    assert rows_of(inputs) == [[CLS, SEP, *pieces_of("ba be"), SEP]]
    assert windows[0].first == 2
    assert inputs.targets.tolist() == [[3, 3]]


def test_a_context_without_tokens_has_no_window():
    asked = [Question("bo", context, [(context, 0)]) for context in ("ba", "\u200b", "be")]
    inputs, windows, _ = _inputs(asked, TOKENIZER, windows_config())
    assert [window.question for window in windows] == [0, 2]
    assert len(inputs) == 2


def test_an_answer_before_the_context_is_a_bad_row(tmp_path):
    """Counted from the end, as Python does, it would be there."""
    row = question("ba be bi", "be")
    row["answers"][0]["answer_start"] -= len("ba be bi")
    with pytest.raises(DataError, match="1 bad row"):
        open_rows(tmp_path, TOKENIZER, "question-answering", [row], [row], **_SHAPE)


_SHAPE = {"max_length": 16, "stride": 4, "max_question_length": 4}


# Texts and pairs


def texts(folder, rows, max_length=128, **settings):
    """The training inputs of texts or pairs, with a class each."""
    rows = [
        {"first": row[0], "second": row[-1], "label": "ab"[index % 2]}
        for index, row in enumerate([*rows, rows[0]] if len(rows) == 1 else rows)
    ]
    columns = {"text": "first", "max_length": max_length} | settings
    return open_rows(folder, TOKENIZER, "classification", rows, rows[:1], **columns).train


def test_a_text_is_cut_at_its_end(tmp_path):
    words = WORDS[:9]
    inputs = texts(tmp_path, [[" ".join(words)], ["ba be"]], max_length=8)
    assert rows_of(inputs) == [
        [CLS, *pieces_of(" ".join(words[:6])), SEP],
        [CLS, *pieces_of("ba be"), SEP],
    ]
    assert rows_of(inputs, "token_types") == [[0] * 8, [0] * 4]
    assert positions_of(inputs) == [[0], [0]]  # where [CLS] is
    assert inputs.targets.tolist() == [0, 1]


@given(st.lists(st.tuples(st.integers(1, 14), st.integers(1, 14)), min_size=2, max_size=5))
def test_of_a_pair_the_longer_text_is_cut_first(sizes):
    max_length = 12
    pairs = [(WORDS[:first], WORDS[20 : 20 + second]) for first, second in sizes]
    with tempfile.TemporaryDirectory() as folder:
        inputs = texts(
            Path(folder),
            [[" ".join(text) for text in pair] for pair in pairs],
            max_length=max_length,
            text_pair="second",
        )
    for row, types, (first, second) in zip(
        rows_of(inputs), rows_of(inputs, "token_types"), pairs, strict=True
    ):
        middle = row.index(SEP)
        kept = middle - 1, len(row) - middle - 2
        assert row == [
            CLS,
            *pieces_of(" ".join(first[: kept[0]])),
            SEP,
            *pieces_of(" ".join(second[: kept[1]])),
            SEP,
        ]
        assert types == [0] * (kept[0] + 2) + [1] * (kept[1] + 1)
        # Token by token off the longer one; of equals either.
        left = [len(first), len(second)]
        while sum(left) > max_length - 3:
            left[left.index(max(left))] -= 1
        assert sum(kept) == sum(left)
        assert abs(kept[0] - left[0]) <= (abs(left[0] - left[1]) == 1)


def test_texts_keep_their_order_however_many_there_are(tmp_path):
    """They are tokenized in parts of 1,024."""
    words = [WORDS[index % 37] for index in range(2100)]
    inputs = texts(tmp_path, [[word] for word in words])
    assert [row[1] for row in rows_of(inputs)] == [pieces_of(word)[0] for word in words]
    assert inputs.targets.tolist() == [index % 2 for index in range(2100)]


@pytest.mark.parametrize(
    ("kind", "labels", "expected", "dtype"),
    [
        ("classification", ["b", "a", "c"], [1, 0, 2], np.int64),
        ("classification", [10, 2, 2], [1, 0, 0], np.int64),  # 2 is before 10
        ("multi-label", [["b"], [], ["c", "a"]], [[0, 1, 0], [0, 0, 0], [1, 0, 1]], np.float32),
        ("multi-label", ["b", "", "c, a"], [[0, 1, 0], [0, 0, 0], [1, 0, 1]], np.float32),
        ("regression", ["0.5", 2, -3.25], [0.5, 2, -3.25], np.float32),
    ],
)
def test_targets_of_texts(tmp_path, kind, labels, expected, dtype):
    """Labels of texts become targets in the type that the loss takes."""
    rows = [{"text": "ba", "label": label} for label in labels]
    inputs = open_rows(tmp_path, TOKENIZER, kind, rows, rows, label="label").train
    assert inputs.targets.tolist() == expected
    assert inputs.targets.dtype == dtype
    assert inputs.targets_are_of_rows


# Words


def tagged(folder, sentences, max_length):
    """Training inputs of sentences; the tags of all words in turn are a, b and c."""
    rows, number = [], 0
    for words in sentences:
        tags = ["abc"[(number + index) % 3] for index in range(len(words))]
        rows.append({"tokens": words, "tags": tags})
        number += len(words)
    return open_rows(
        folder,
        TOKENIZER,
        "tagging",
        rows,
        rows[:1],
        max_length=max_length,
        labels=["a", "b", "c"],
    ).train


def test_outputs_are_read_at_the_first_piece_of_each_word(tmp_path):
    inputs = tagged(tmp_path, [["ba", "bexy", "BI.", "fo"], ["xyz"]], 16)
    assert [TOKENIZER.convert_ids_to_tokens(row) for row in rows_of(inputs)] == [
        ["[CLS]", "ba", "be", "##x", "##y", "bi", ".", "fo", "[SEP]"],
        ["[CLS]", "x", "##y", "##z", "[SEP]"],
    ]
    assert positions_of(inputs) == [[1, 2, 5, 7], [1]]
    assert inputs.targets.tolist() == [0, 1, 2, 0, 1]
    assert not inputs.token_types.any()


@pytest.mark.parametrize("dropped", ["\u200b", "\ufeff", "\x07", "\u200b\u200d", "\ufffd"])
def test_a_word_that_the_tokenizer_drops_is_unknown(tmp_path, dropped):
    """Its tag stays with it, and the tags of the other words stay with theirs."""
    assert pieces_of(dropped) == []
    inputs = tagged(tmp_path, [["ba", dropped, "be"], [dropped], [dropped, "bi"]], 16)
    (ba,), (be,), (bi,) = map(pieces_of, ("ba", "be", "bi"))
    assert rows_of(inputs) == [[CLS, ba, UNK, be, SEP], [CLS, UNK, SEP], [CLS, UNK, bi, SEP]]
    assert positions_of(inputs) == [[1, 2, 3], [1], [1, 2]]
    assert inputs.targets.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_long_sentence_is_cut_between_words(tmp_path):
    # Room for 6 pieces: 1 + 3, and 3 more do not fit; 3 + 3 do; then a word is left.
    words = ["ba", "bexy", "bixy", "foxy", "gu"]
    inputs = tagged(tmp_path, [words, ["ka"]], 8)
    assert [TOKENIZER.convert_ids_to_tokens(row) for row in rows_of(inputs)] == [
        ["[CLS]", "ba", "be", "##x", "##y", "[SEP]"],
        ["[CLS]", "bi", "##x", "##y", "fo", "##x", "##y", "[SEP]"],
        ["[CLS]", "gu", "[SEP]"],
        ["[CLS]", "ka", "[SEP]"],  # another sentence is another input
    ]
    assert positions_of(inputs) == [[1, 2], [1, 4], [1], [1]]
    assert inputs.targets.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_word_longer_than_an_input_is_cut(tmp_path, place):
    words = ["ba", "be"]
    words.insert(place, "xxxxxxxx")
    inputs = tagged(tmp_path, [words], 8)
    pieces = [pieces_of(word)[:6] for word in words]
    cut = {
        0: [pieces[0], pieces[1] + pieces[2]],
        1: [pieces[0], pieces[1], pieces[2]],
        2: [pieces[0] + pieces[1], pieces[2]],
    }[place]
    assert rows_of(inputs) == [[CLS, *row, SEP] for row in cut]
    assert len(inputs.output_positions) == len(inputs.targets) == 3
    assert max(inputs.lengths) == 8


_ANY_WORDS = [*_SPELT, "\u200b", "\x07", "xxxxxxxxxxxx", "b\u200ba"]


@given(
    st.lists(
        st.lists(st.sampled_from(_ANY_WORDS), min_size=1, max_size=15), min_size=1, max_size=4
    ),
    st.integers(8, 20),
)
def test_every_word_is_in_one_input_once(sentences, max_length):
    with tempfile.TemporaryDirectory() as folder:
        inputs = tagged(Path(folder), sentences, max_length)
    room = max_length - 2
    # Each word by itself, then as many words in an input as fit.
    expected, positions = [], []
    for words in sentences:
        tokens, firsts = [], []
        for word in words:
            pieces = (pieces_of(word) or [UNK])[:room]
            if len(tokens) + len(pieces) > room:
                expected.append(tokens)
                positions.append(firsts)
                tokens, firsts = [], []
            firsts = [*firsts, 1 + len(tokens)]
            tokens = tokens + pieces
        expected.append(tokens)
        positions.append(firsts)
    assert rows_of(inputs) == [[CLS, *tokens, SEP] for tokens in expected]
    assert positions_of(inputs) == positions
    num_words = sum(map(len, sentences))
    assert inputs.targets.tolist() == [index % 3 for index in range(num_words)]
    assert inputs.targets_are_of_rows


def test_sentences_keep_their_order_however_many_there_are(tmp_path):
    """They are tokenized in parts of 1,024."""
    words = [WORDS[index % 37] for index in range(2100)]
    inputs = tagged(tmp_path, [[word] for word in words], 8)
    assert [row[1] for row in rows_of(inputs)] == [pieces_of(word)[0] for word in words]
    assert inputs.targets.tolist() == [index % 3 for index in range(2100)]
