"""What a model with a tokenizer of its own is given of a task's inputs, and its outputs as theirs.

Sequences correspond one to one, and words are counted. The tokens of a context are not the same on
both sides: what the model says of one of its tokens goes to the student's token over the same
characters.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from distilcli.tasks.inputs import Inputs, join
from distilcli.tasks.shown import Shown, ShownWindow, ShownWords
from distilcli.tasks.tagging import pieces_of_words
from distilcli.tasks.task import batched
from distilcli.text.tokenizers import TextTokenizer

# The logarithm of the smallest normal float32: no token has a lower probability of a start.
_LEAST = float(np.log(np.finfo(np.float32).tiny))
_NOTHING = np.zeros(0, np.int64)  # targets, which nobody asks for here


@dataclass(frozen=True)
class Read:
    """Inputs of a task as a model reads them.

    Attributes:
        inputs: tokens of the model.
        owners: of each the index of the task's input that it is of, rising.
        num_cut: how many are shown in part, because they are too long.
        spans: of windows, for each token first and last-plus-one character of the context; both
            are -1 where it is of none.
    """

    inputs: Inputs
    owners: Sequence[int]
    num_cut: int = 0
    spans: Sequence[np.ndarray] = ()


class Reader(ABC):
    """Reads the inputs of one kind of task.

    Args:
        tokenizer: of the model.
        longest: tokens that it takes at most; None: any number.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, longest: int | None) -> None:
        self.longest = longest
        self._text = TextTokenizer(tokenizer)

    def identity(self) -> list[object]:
        """What outputs depend on besides the model, its tokenizer and what is shown."""
        return [type(self).__name__, self.longest]

    @abstractmethod
    def read(self, shown: Sequence[Shown]) -> Read:
        """The inputs as the model takes them."""

    def rows(self, outputs: Sequence[np.ndarray], read: Read, shown: Sequence[Shown]) -> np.ndarray:
        """Outputs where those of the task are read, all inputs end to end.

        Args:
            outputs: float32 [rows, outputs] of each input of `read`.
            read: what `read` gave.
            shown: what it was given.
        """
        return np.concatenate(outputs)

    def _encoded(
        self, columns: Sequence[list[str]], cut: str
    ) -> tuple[list[list[int]], list[list[int]], int]:
        """Ids and types, at most `longest` of each, and how many were longer."""
        whole = self._text(
            *columns, return_attention_mask=False, return_token_type_ids=True, verbose=False
        )
        ids, types = list(whole["input_ids"]), list(whole["token_type_ids"])
        longer = [i for i, row in enumerate(ids) if self.longest and len(row) > self.longest]
        if longer:
            short = self._text(
                *([column[i] for i in longer] for column in columns),
                truncation=cut,
                max_length=self.longest,
                return_attention_mask=False,
                return_token_type_ids=True,
                verbose=False,
            )
            for place, i in enumerate(longer):
                ids[i], types[i] = short["input_ids"][place], short["token_type_ids"][place]
        return ids, types, len(longer)


class TextReader(Reader):
    """Texts and pairs of texts, of which the longer one is cut first."""

    def read(self, shown: Sequence[Shown]) -> Read:
        """Each text or pair as one input."""
        texts = [list(column) for column in zip(*map(_texts, shown), strict=True)]
        ids, types, num_cut = self._encoded(texts, "longest_first")
        inputs = join(ids, types, [[0]] * len(ids), _NOTHING)
        return Read(inputs, range(len(ids)), num_cut)


class HypothesisReader(Reader):
    """Texts as premises, each with a hypothesis for every class, for a model of entailment.

    Args:
        tokenizer: of the model.
        longest: tokens that it takes at most; None: any number.
        hypotheses: of each class.
        entailment: index of the output for it.
        opposite: index of the output against it, where each class is right or not by itself;
            None: one of the classes is.

    Source: Yin et al. 2019, *Benchmarking Zero-shot Text Classification*, sec. 5.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        longest: int | None,
        hypotheses: Sequence[str],
        entailment: int,
        opposite: int | None,
    ) -> None:
        super().__init__(tokenizer, longest)
        self._hypotheses = list(hypotheses)
        self._entailment, self._opposite = entailment, opposite

    @property
    def room(self) -> int | None:
        """Tokens that are left for a text beside the longest hypothesis; None: any number."""
        if self.longest is None:
            return None
        nothing = [""] * len(self._hypotheses)
        around = self._text(nothing, self._hypotheses, verbose=False)["input_ids"]
        return self.longest - max(map(len, around))

    def identity(self) -> list[object]:
        """The hypotheses and the outputs that are read, too."""
        read = [self._hypotheses, self._entailment, self._opposite]
        return [*super().identity(), *read]

    def read(self, shown: Sequence[Shown]) -> Read:
        """Each text as many times as there are classes; the text is cut, and no hypothesis."""
        number = len(self._hypotheses)
        premises = [text for one in shown for text in _texts(one) for _ in range(number)]
        hypotheses = self._hypotheses * len(shown)
        ids, types, num_cut = self._encoded([premises, hypotheses], "only_first")
        inputs = join(ids, types, [[0]] * len(ids), _NOTHING)
        return Read(inputs, [i // number for i in range(len(ids))], num_cut)

    def rows(self, outputs: Sequence[np.ndarray], read: Read, shown: Sequence[Shown]) -> np.ndarray:
        """The logit of entailment of each class, less that of the opposite where there is one."""
        found = np.concatenate(outputs)
        logits = found[:, self._entailment]
        if self._opposite is not None:
            logits = logits - found[:, self._opposite]
        return logits.reshape(len(shown), len(self._hypotheses))


class WordReader(Reader):
    """Words, read at the first token of each; what is too long is cut between words."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, longest: int | None) -> None:
        super().__init__(tokenizer, longest)
        # What the tokenizer puts around a text; it is made of ids, as a word may have none.
        around = tokenizer("a", return_special_tokens_mask=True)
        mask = around["special_tokens_mask"]
        inside = mask.index(0) if 0 in mask else len(mask)
        last = len(mask) - mask[::-1].index(0) if 0 in mask else len(mask)
        self._before, self._after = around["input_ids"][:inside], around["input_ids"][last:]

    def read(self, shown: Sequence[Shown]) -> Read:
        """Each input as one, or as several where it has too many tokens."""
        ids: list[list[int]] = []
        places: list[list[int]] = []
        owners: list[int] = []
        num_cut = 0
        inputs = [_words(one) for one in shown]
        words = pieces_of_words([list(one.words) for one in inputs], self._text)
        for owner, (one, pieces) in enumerate(zip(inputs, words, strict=True)):
            for begin, end in self._cuts([len(word) for word in pieces]):
                tokens: list[int] = []
                firsts: list[int] = []
                for index in range(begin, end):
                    if index in one.read:
                        firsts.append(len(self._before) + len(tokens))
                    tokens += pieces[index]
                if firsts:
                    room = self._room
                    num_cut += room is not None and len(tokens) > room
                    ids.append([*self._before, *tokens[:room], *self._after])
                    places.append(firsts)
                    owners.append(owner)
        return Read(join(ids, [[0] * len(row) for row in ids], places, _NOTHING), owners, num_cut)

    @property
    def _room(self) -> int | None:
        return self.longest and self.longest - len(self._before) - len(self._after)

    def _cuts(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """First and last-plus-one word of each input that words of so many tokens make."""
        found, begin, tokens = [], 0, 0
        for index, size in enumerate(sizes):
            if tokens and self._room is not None and tokens + size > self._room:
                found.append((begin, index))
                begin, tokens = index, 0
            tokens += size
        return [*found, (begin, len(sizes))]


class WindowReader(Reader):
    """A question and a piece of its context, read at every token."""

    def without_room(self, shown: Sequence[Shown]) -> tuple[str, int] | None:
        """A question that leaves no token for a context, with the tokens that it takes; or None."""
        if self.longest is None:
            return None
        questions = list(dict.fromkeys(_window(one).question for one in shown))
        for part in batched(len(questions)):
            some = questions[part]
            around = self._text(some, [""] * len(some), verbose=False)["input_ids"]
            for question, ids in zip(some, around, strict=True):
                if len(ids) >= self.longest:
                    return question, len(ids)
        return None

    def read(self, shown: Sequence[Shown]) -> Read:
        """Each window as one input; the end of a piece that is too long is not shown."""
        windows = [_window(one) for one in shown]
        questions = [one.question for one in windows]
        encoded = self._text(
            questions,
            [one.piece for one in windows],
            truncation="only_second" if self.longest else False,
            max_length=self.longest,
            return_attention_mask=False,
            return_token_type_ids=True,
            return_offsets_mapping=True,
            return_overflowing_tokens=True,
            verbose=False,
        )
        origins = list(encoded["overflow_to_sample_mapping"])
        kept = [origins.index(window) for window in range(len(windows))]
        spans = []
        for row, window in zip(kept, windows, strict=True):
            is_context = np.array([text == 1 for text in encoded.sequence_ids(row)])
            found = np.array(encoded["offset_mapping"][row], dtype=np.int64) + window.begin
            spans.append(np.where(is_context[:, None], found, -1))
        ids = [encoded["input_ids"][row] for row in kept]
        types = [encoded["token_type_ids"][row] for row in kept]
        places = [list(range(len(row))) for row in ids]
        num_cut = sum(origins.count(window) > 1 for window in {*origins}) if self.longest else 0
        return Read(join(ids, types, places, _NOTHING), range(len(ids)), num_cut, spans)

    def rows(self, outputs: Sequence[np.ndarray], read: Read, shown: Sequence[Shown]) -> np.ndarray:
        """A start and an end for each of the student's tokens, by the characters under it."""
        each = zip(outputs, read.spans, shown, strict=True)
        return np.concatenate([by_characters(*one) for one in each])  # type: ignore[arg-type]


def by_characters(outputs: np.ndarray, spans: np.ndarray, window: ShownWindow) -> np.ndarray:
    """Start and end logits of a model as those of another one's tokens.

    A start goes to the token over the first character, an end to that over the last one; between
    two tokens, as on a blank, to the one further inside. Of several that come together the
    probabilities are added up: their logit is the logarithm of the sum of their exponentials. What
    is said of special tokens and of the question, where a model puts that there is no answer, goes
    to the first token, [CLS]. A token to which nothing comes has the least probability that a
    float32 holds.

    Args:
        outputs: of the model, [tokens of the model, 2].
        spans: of each of them first and last-plus-one character in the context, [tokens of the
            model, 2]; both are -1 where it is of none.
        window: what is shown.

    Returns:
        float32 [tokens of the window, 2].
    """
    inside = spans[:, 1] >= 0
    last = len(window.spans) - 1
    begins, ends = window.spans[:, 0], window.spans[:, 1]
    to_start = np.searchsorted(ends, spans[:, 0], side="right").clip(0, last)
    to_end = (np.searchsorted(begins, spans[:, 1], side="left") - 1).clip(0, last)
    found = np.empty((window.num_tokens, 2), np.float32)
    for column, place in enumerate((to_start, to_end)):
        target = np.where(inside, place + window.first, 0)
        logits = outputs[:, column].astype(np.float64)
        sums = np.full(window.num_tokens, -np.inf)
        np.logaddexp.at(sums, target, logits)
        least = np.logaddexp.reduce(logits) + _LEAST
        found[:, column] = np.maximum(sums, least)
    return found


def _texts(shown: Shown) -> tuple[str, ...]:
    assert isinstance(shown, tuple)
    return shown


def _words(shown: Shown) -> ShownWords:
    assert isinstance(shown, ShownWords)
    return shown


def _window(shown: Shown) -> ShownWindow:
    assert isinstance(shown, ShownWindow)
    return shown
