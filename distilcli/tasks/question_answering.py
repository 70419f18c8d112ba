"""Extractive question answering: the answer is a span of the context.

A long context is cut into windows that overlap; the answer is the span with the highest sum of
start and end logits over all windows of its question (Devlin et al. 2019, sec. 4.2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from distilcli.config.tasks import QuestionAnsweringTask
from distilcli.tasks import squad
from distilcli.tasks.cells import text_of
from distilcli.tasks.decisions import Decisions
from distilcli.tasks.examples import BadExample, is_nothing
from distilcli.tasks.inputs import Cut, Inputs, join
from distilcli.tasks.outputs import Spans
from distilcli.tasks.shown import ShownWindow
from distilcli.tasks.splits import RowReader, read_splits
from distilcli.tasks.task import OpenTask, batched
from distilcli.text.row import IGNORE_INDEX
from distilcli.text.tokenizers import TextTokenizer

_ENDINGS = {".json": "squad"}


@dataclass(frozen=True)
class Question:
    """A question with its context, and its answers as (text, first character); none are known."""

    question: str
    context: str
    answers: list[tuple[str, int]]

    @property
    def texts(self) -> list[str]:
        """The texts of its answers."""
        return [text for text, _ in self.answers]


@dataclass(frozen=True)
class Window:
    """Where an input's tokens lie in its question's context.

    Attributes:
        question: index of the question.
        first: the first token of the context, in the input.
        spans: first and last-plus-one character of each token of the context, int32 [tokens, 2].
    """

    question: int
    first: int
    spans: np.ndarray


class QuestionAnswering(OpenTask):
    """Start and end of the answer among the tokens of a window."""

    head = "span"
    is_scored_by_scikit = False
    outputs = Spans()
    agreement_means = "questions with exactly the answer that the teacher gives"

    def __init__(
        self,
        config: QuestionAnsweringTask,
        tokenizer: TextTokenizer,
        teacher_labels: list[str] | None = None,
        may_lack_labels: bool = False,
    ) -> None:
        self.score = config.score
        self.labels = ["start", "end"]
        self._longest = config.max_answer_length
        splits = read_splits(config, _READER, may_lack_labels)
        self.keep_usable(
            splits,
            config.skip_bad_rows,
            lambda question: question,
            lambda question: (question.question, question.context),
        )
        self._questions = splits.dev.usable

        def make(questions: Sequence[Question]) -> tuple[Inputs, Cut]:
            inputs, self._windows, cut = _inputs(questions, tokenizer, config)
            return inputs, cut  # the dev questions come last: their windows stay

        limit = config.max_question_length
        self.make_inputs(splits, make, "task.max_question_length", limit)

    def answers(self, outputs: np.ndarray) -> list[str]:
        """The answer to each dev question, from start and end logits [rows, 2]."""
        return self._texts(self._best(outputs))

    def _texts(self, characters: Sequence[tuple[int, int]]) -> list[str]:
        """What stands in each question's context from one character to another."""
        chosen = zip(self._questions, characters, strict=True)
        return [question.context[first:end] for question, (first, end) in chosen]

    def _best(self, outputs: np.ndarray) -> list[tuple[int, int]]:
        """First and last-plus-one character of each answer; both 0 where there is no window."""
        best = [(-np.inf, (0, 0))] * len(self._questions)
        for window, logits in self._logits(outputs):
            value, start, end = best_span(logits[:, 0], logits[:, 1], self._longest)
            if value > best[window.question][0]:
                characters = int(window.spans[start, 0]), int(window.spans[end, 1])
                best[window.question] = (value, characters)
        return [characters for _, characters in best]

    def _logits(self, outputs: np.ndarray) -> Iterator[tuple[Window, np.ndarray]]:
        """Each window of the dev contexts with its logits, [tokens of the context, 2]."""
        for window, first in zip(self._windows, self.dev.output_offsets[:-1], strict=True):
            begin = first + window.first
            yield window, outputs[begin : begin + len(window.spans)]

    def decisions(self, outputs: np.ndarray) -> Decisions:
        """An answer to each question, with its probability among all spans that it might be.

        These are the spans of all windows, of as many tokens as an answer may have. A span that
        lies in several windows has the sum of its probabilities there.
        """
        best = self._best(outputs)
        log_sums = np.full((2, len(best)), -np.inf)  # of the answer, of all spans
        for window, logits in self._logits(outputs):
            sums = log_sums_of_spans(logits, window.spans, best[window.question], self._longest)
            column = log_sums[:, window.question]
            np.logaddexp(column, sums, out=column)
        texts = self._texts(best)
        chosen = zip(texts, self._questions, strict=True)
        is_right = np.array([squad.exact_match(x, q.texts) for x, q in chosen], dtype=bool)
        has_window = np.isfinite(log_sums[1])
        probabilities = np.exp(log_sums[0, has_window] - log_sums[1, has_window])
        return Decisions(np.array(texts), is_right, probabilities, is_right[has_window])

    def scores(self, outputs: np.ndarray) -> dict[str, float]:
        """Exact match and F1 by the rules of the official SQuAD script."""
        pairs = [
            (found, question.texts)
            for found, question in zip(self.answers(outputs), self._questions, strict=True)
        ]
        count = len(pairs)
        return {
            "exact_match": sum(squad.exact_match(*pair) for pair in pairs) / count,
            "f1": sum(squad.f1(*pair) for pair in pairs) / count,
        }

    def constant_outputs(self) -> np.ndarray:
        """The same logit everywhere: the first token of the first window is the answer."""
        return np.zeros((int(self.dev.output_offsets[-1]), 2))


def best_span(start: np.ndarray, end: np.ndarray, max_length: int) -> tuple[float, int, int]:
    """The highest start[i] + end[j] with i <= j < i + max_length, with i and j."""
    size = len(start)
    sums = start[:, None] + end[None, :]
    allowed = np.triu(np.ones((size, size), dtype=bool))
    allowed &= ~np.triu(np.ones((size, size), dtype=bool), k=max_length)
    flat = int(np.where(allowed, sums, -np.inf).argmax())
    first, last = divmod(flat, size)
    return float(sums[first, last]), first, last


def log_sums_of_spans(
    logits: np.ndarray, spans: np.ndarray, characters: tuple[int, int], max_length: int
) -> tuple[float, float]:
    """Logarithms of two sums of exp(start[i] + end[j]) with i <= j < i + max_length.

    Args:
        logits: of starts and ends, float [tokens, 2].
        spans: first and last-plus-one character of each token, [tokens, 2].
        characters: those of one span.
        max_length: tokens of the longest span.

    Returns:
        The sum over the (i, j) that begin and end with these characters, and that over all.
    """
    highest = logits.max(axis=0)
    start, end = np.exp(logits.astype(np.float64) - highest).T

    def log_sum(start: np.ndarray, end: np.ndarray) -> float:
        ends = sliding_window_view(np.pad(end, (0, max_length - 1)), max_length).sum(axis=1)
        with np.errstate(divide="ignore"):  # a span that is not in this window
            return float(np.log(start @ ends) + highest.sum())

    of_one = spans == np.array(characters)
    return log_sum(start * of_one[:, 0], end * of_one[:, 1]), log_sum(start, end)


def _unlabelled(values: dict[str, Any]) -> Question:
    question, context = (text_of(values[name], name) for name in _SHOWN)
    return Question(question, context, [])


def _question(values: dict[str, Any], may_lack_answers: bool) -> Question:
    question = _unlabelled(values)
    if may_lack_answers and is_nothing(values["answers"]):
        return question
    try:
        answers = squad.answers_of(values["answers"])
    except ValueError as error:
        raise BadExample(str(error)) from None
    if not answers and not may_lack_answers:
        raise BadExample("no answer")
    for text, start in answers:
        if not text or start < 0 or not question.context.startswith(text, start):
            raise BadExample(f"the answer {text!r} is not in the context at character {start}")
    return replace(question, answers=answers)


_SHOWN, _ANSWERS = squad.COLUMNS[1:3], squad.COLUMNS[3:]
_READER = RowReader(
    _SHOWN, _ANSWERS, _question, _unlabelled, lambda question: bool(question.answers), _ENDINGS
)


def _inputs(
    questions: Sequence[Question],
    tokenizer: TextTokenizer,
    config: QuestionAnsweringTask,
) -> tuple[Inputs, list[Window], Cut]:
    """Windows over every context, whole, and what is cut off of questions."""
    num_cut = num_tokens = 0
    ids: list[list[int]] = []
    types: list[list[int]] = []
    windows: list[Window] = []
    shown: list[ShownWindow] = []
    for part in batched(len(questions), 256):
        chosen = questions[part]
        texts, surplus = _cut(
            [question.question for question in chosen], tokenizer, config.max_question_length
        )
        num_cut += sum(tokens > 0 for tokens in surplus)
        num_tokens += sum(surplus)
        encoded = tokenizer(
            texts,
            [question.context for question in chosen],
            truncation="only_second",
            max_length=config.max_length,
            stride=config.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=True,
        )
        for row, index in enumerate(encoded["overflow_to_sample_mapping"]):
            inside = [i for i, text in enumerate(encoded.sequence_ids(row)) if text == 1]
            if not inside:
                continue  # a context of which the tokenizer keeps nothing
            first = inside[0]
            spans = np.array(encoded["offset_mapping"][row], dtype=np.int32)[inside]
            windows.append(Window(part.start + index, first, spans))
            ids.append(encoded["input_ids"][row])
            types.append(encoded["token_type_ids"][row])
            context = chosen[index].context
            shown.append(ShownWindow(texts[index], context, spans, first, len(ids[-1])))
    positions = [list(range(len(row))) for row in ids]
    targets = np.array(_targets(questions, windows), dtype=np.int64).reshape(-1, 2)
    inputs = join(ids, types, positions, targets, shown)
    return inputs, windows, Cut(num_cut, num_tokens, len(inputs.token_ids))


def _cut(
    texts: list[str], tokenizer: TextTokenizer, max_tokens: int
) -> tuple[list[str], list[int]]:
    """The texts, each cut after so many tokens, and how many tokens each has lost."""
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    kept = [
        text if len(spans) <= max_tokens else text[: spans[max_tokens - 1][1]]
        for text, spans in zip(texts, encoded["offset_mapping"], strict=True)
    ]
    return kept, [max(0, len(spans) - max_tokens) for spans in encoded["offset_mapping"]]


def _targets(questions: Sequence[Question], windows: Sequence[Window]) -> list[tuple[int, int]]:
    """First and last token of the answer in each input; [CLS], token 0, where it is not whole.

    What the tokenizer keeps of the answer counts: blanks at its edges belong to no token. Where no
    answer is known, both are `IGNORE_INDEX`.
    """
    touched = [_touched(questions[window.question], window) for window in windows]
    kept: dict[int, tuple[int, int]] = {}  # characters of each question's answer, over all windows
    for window, inside in zip(windows, touched, strict=True):
        if len(inside):
            begin, end = kept.get(window.question, (len(questions[window.question].context), 0))
            spans = window.spans[inside]
            kept[window.question] = min(begin, int(spans[0, 0])), max(end, int(spans[-1, 1]))
    targets = []
    for window, inside in zip(windows, touched, strict=True):
        spans = window.spans[inside]
        if not questions[window.question].answers:
            targets.append((IGNORE_INDEX, IGNORE_INDEX))
        elif len(inside) and (spans[0, 0], spans[-1, 1]) == kept[window.question]:
            targets.append((window.first + int(inside[0]), window.first + int(inside[-1])))
        else:
            targets.append((0, 0))
    return targets


def _touched(question: Question, window: Window) -> np.ndarray:
    """Indices of the window's context tokens that have a character of the answer."""
    if not question.answers:
        return np.empty(0, dtype=np.int64)
    text, begin = question.answers[0]
    return np.flatnonzero((window.spans[:, 0] < begin + len(text)) & (window.spans[:, 1] > begin))
