"""What each size of a vocabulary costs: a smaller model reads more pieces of the same text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedTokenizerFast

from distilcli.corpus.piece_counts import PieceCounter
from distilcli.errors import ConfigError
from distilcli.evaluation.result import Result, Table, number
from distilcli.models.families import MaskedLM, size_mib
from distilcli.models.vocabulary import bytes_of_a_token
from distilcli.text.trimming import PieceChoice, trim_tokenizer

_MIB, _MB = 2**20, 1e6


@dataclass(frozen=True)
class VocabularyCost:
    """What a vocabulary of one size costs.

    Attributes:
        tokens: its size, special tokens included.
        pieces_per_word: pieces of a text for each of its words; None: there is no text.
        unknown_share: share of these pieces that are the unknown token.
        megabytes: of the student with it, 10^6 bytes in its own precision.
        is_chosen: whether the student has it.
    """

    tokens: int
    pieces_per_word: float | None
    unknown_share: float | None
    megabytes: float
    is_chosen: bool


def vocabulary_costs(
    tokenizer: PreTrainedTokenizerFast,
    kept: Int64[np.ndarray, " kept"],
    student: MaskedLM,
    counts: Int64[np.ndarray, " vocab"] | None,
    min_count: int,
    texts: Sequence[str],
) -> list[VocabularyCost]:
    """Costs of the full vocabulary, of half of it and so on, of the chosen one, and of half that.

    Args:
        tokenizer: with the full vocabulary.
        kept: the chosen part of it.
        student: with the chosen part, or with any other.
        counts: what pieces of the other sizes are chosen by, as in `choose_pieces`.
        min_count: of those.
        texts: measured on; with none of them only the megabytes are known.
    """
    whole = np.array(sorted(tokenizer.get_vocab().values()), dtype=np.int64)
    sizes = {len(whole): whole, len(kept): kept}
    choice = PieceChoice(tokenizer, counts, min_count)
    for size in _other_sizes(len(whole), len(kept)):
        try:
            found = choice.of_size(size)
        except ConfigError:  # special tokens and characters alone are more
            continue
        sizes.setdefault(len(found), found)
    of_token = bytes_of_a_token(student)
    rest = size_mib(student) * _MIB - student.config.vocab_size * of_token
    costs = []
    for size, ids in sorted(sizes.items(), reverse=True):
        pieces, unknown = _pieces_of(tokenizer, ids, texts)
        megabytes = (rest + size * of_token) / _MB
        costs.append(VocabularyCost(size, pieces, unknown, megabytes, size == len(kept)))
    return costs


def _other_sizes(whole: int, chosen: int) -> list[int]:
    """Half of the whole, a quarter and so on down to what was chosen, and half of that."""
    sizes = [whole // 2]
    while sizes[-1] > chosen:
        sizes.append(sizes[-1] // 2)
    return [*sizes[:-1], chosen // 2]


def _pieces_of(
    tokenizer: PreTrainedTokenizerFast, ids: Int64[np.ndarray, " kept"], texts: Sequence[str]
) -> tuple[float | None, float | None]:
    """Pieces of texts for each word, and the share of them that is unknown."""
    num_words = sum(len(text.split()) for text in texts)
    if not num_words:
        return None, None
    trimmed = trim_tokenizer(tokenizer, ids)
    counter = PieceCounter(trimmed)
    counter.add(texts)
    num_pieces = max(int(counter.counts.sum()), 1)
    unknown = trimmed.unk_token_id
    num_unknown = 0 if unknown is None else int(counter.counts[unknown])
    return num_pieces / num_words, num_unknown / num_pieces


def costs_to_show(costs: Sequence[VocabularyCost], lines: Sequence[str]) -> Result:
    """The table of costs, and what there is to say of it.

    Args:
        costs: from `vocabulary_costs`.
        lines: such as how pieces were chosen and what was measured on.
    """
    columns = ["tokens", "MB of the student"]
    is_measured = costs[0].pieces_per_word is not None
    if is_measured:
        columns += ["pieces a word", "unknown pieces"]
    rows = []
    for cost in costs:
        row = [f"{cost.tokens:,}{cost.is_chosen * ' (chosen)'}", f"{cost.megabytes:.1f}"]
        if is_measured:
            share = cost.unknown_share or 0.0
            row += [number(cost.pieces_per_word), f"{100 * share:.3f} %"]
        rows.append(row)
    record: dict[str, Any] = {"costs": [asdict(cost) for cost in costs]}
    return Result(Table("vocabulary", columns, rows), lines, record)
