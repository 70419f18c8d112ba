"""A part of the vocabulary for the student that `init-student` makes, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedTokenizerFast

from distilcli.cli.console import Console
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.corpus.piece_counts import CountedText, count_files, first_texts
from distilcli.distillation.tokenization import Tokenization
from distilcli.errors import ConfigError
from distilcli.evaluation.result import Result
from distilcli.evaluation.vocabulary import costs_to_show, vocabulary_costs
from distilcli.models.families import MaskedLM
from distilcli.models.vocabulary import trim_vocabulary
from distilcli.text.trimming import choose_pieces, trim_tokenizer


@dataclass(frozen=True)
class WantedVocabulary:
    """What was asked for.

    Attributes:
        keep: most tokens of the student; None: all that occur.
        files: paths or globs of the text that pieces are counted in; with none of them those are
            kept that the tokenizer learnt first.
        min_count: how often a piece must occur in that text.
        text: paths or globs that were named, whatever for.
    """

    keep: int | None
    files: Sequence[str] = field(default=())
    min_count: int | None = None
    text: Sequence[str] = field(default=())

    def beside_other_uses(self, *, of_text: bool) -> "WantedVocabulary":
        """The same where text has another use: then it alone asks for no smaller vocabulary."""
        asks = self.keep is not None or self.min_count is not None
        files = () if of_text and not asks else self.files
        return replace(self, files=files, text=self.files)

    def check(self) -> None:
        """Refuse options that mean nothing together; ConfigError."""
        if self.min_count is not None and not self.files:
            raise ConfigError("--min-count can only be used with --text", "Name text to count in.")

    @property
    def is_all(self) -> bool:
        """Whether the student has its teacher's vocabulary."""
        return self.keep is None and not self.files


class SmallerVocabulary:
    """The part of a teacher's vocabulary that a student keeps.

    Args:
        tokenizer: of the teacher.
        wanted: which part.
        console: told how far counting is.

    Attributes:
        tokenizer: of the student.

    Raises:
        ConfigError: fewer tokens are asked for than always stay.
        DataError: the text cannot be read.
        ModelError: the tokenizer cannot be trimmed.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, wanted: WantedVocabulary, console: Console
    ) -> None:
        self._whole = tokenizer
        self._wanted = wanted
        self._text = _counted(tokenizer, wanted, console) if wanted.files else None
        self._counts = None if self._text is None else self._text.counts
        self._min_count = wanted.min_count or 1
        self._kept: Int64[np.ndarray, " kept"] = choose_pieces(
            tokenizer, self._counts, keep=wanted.keep, min_count=self._min_count
        )
        self.tokenizer = trim_tokenizer(tokenizer, self._kept)

    def trimmed(self, student: MaskedLM) -> MaskedLM:
        """The student of the teacher's vocabulary with the chosen part of it."""
        return trim_vocabulary(student, self._kept, self.tokenizer)

    def costs(self, student: MaskedLM) -> Result:
        """What this and other sizes cost, to be shown."""
        sample = [] if self._text is None else self._text.sample
        costs = vocabulary_costs(
            self._whole, self._kept, student, self._counts, self._min_count, sample
        )
        result = costs_to_show(costs, self._lines())
        return replace(result, record={**self._record(), **result.record})

    def _record(self) -> dict[str, Any]:
        return {
            "tokens": len(self._kept),
            "counted_in": None if self._text is None else list(self._wanted.files),
            "counted_words": None if self._text is None else self._text.num_words,
            "min_count": None if self._text is None else self._min_count,
        }

    def _lines(self) -> list[str]:
        whole, chosen = len(self._whole), len(self._kept)
        keep = self._wanted.keep
        lines = []
        if self._text is None:
            lines.append(
                "pieces were kept in the order of the tokenizer, not by how often they occur; "
                "name text to count them in with --text FILE"
            )
        else:
            lines += _lines_of_text(self._text, self._wanted.files)
        if chosen == whole:
            lines.append(f"all {whole:,} tokens of the vocabulary are kept")
        elif keep is not None and chosen < keep:
            lines.append(f"no more than {chosen:,} tokens occur that often, or always stay")
        return lines


def costs_in_experiment(
    experiment: MaskedLMExperiment, tokenization: Tokenization, student: MaskedLM
) -> Result | None:
    """What the vocabulary of an experiment's student costs, beside other sizes.

    Args:
        experiment: says what is kept.
        tokenization: of it.
        student: with that part.

    Returns:
        None where the student keeps all of it.
    """
    wanted, whole, kept = experiment.student.kept_vocabulary, tokenization.whole, tokenization.kept
    if wanted is None or whole is None or kept is None:
        return None
    counts = whole.open_store(by_content=False).token_counts
    texts = first_texts(experiment.data)
    costs = vocabulary_costs(whole.tokenizer, kept, student, counts, wanted.min_count, texts)
    line = f"pieces were counted in {whole.data.store}"
    if texts:
        num_words = sum(len(text.split()) for text in texts)
        line += f"; each size was measured on the first {num_words:,} words of the text"
    return costs_to_show(costs, [line])


def _lines_of_text(text: CountedText, files: Sequence[str]) -> list[str]:
    measured = sum(len(one.split()) for one in text.sample)
    counted = f"pieces were counted in {text.num_words:,} words of {', '.join(files)}"
    if measured == text.num_words:
        return [f"{counted}, and each size was measured on them"]
    return [f"{counted}; each size was measured on {measured:,} of them, spread evenly"]


def _counted(
    tokenizer: PreTrainedTokenizerFast, wanted: WantedVocabulary, console: Console
) -> CountedText:
    with console.bar("counting pieces") as bar:
        return count_files(
            wanted.files, "--text", tokenizer, lambda done, total: bar.update(done, total, "")
        )
