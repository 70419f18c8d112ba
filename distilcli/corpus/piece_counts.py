"""How often each piece of a vocabulary occurs in a text, and a sample of that text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64
from tokenizers import Tokenizer

from distilcli.config.data import DataConfig, FilesSource
from distilcli.corpus.input_files import inputs_of
from distilcli.corpus.word_cache import Words, splits_at_spaces
from distilcli.errors import DataError
from distilcli.files.json_text import to_json
from distilcli.text.sources import Reader, resolve
from distilcli.text.tokenizers import naming_the_tokenizer, text_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SAMPLE_CHARS = 2_000_000
_BATCH_CHARS = 1 << 20


@dataclass(frozen=True)
class CountedText:
    """What is in a text.

    Attributes:
        counts: occurrences of each id, without special tokens around the text; [vocab].
        num_words: between white space.
        num_documents: in the text.
        sample: documents at even distances, of `SAMPLE_CHARS` characters at most, or one.
    """

    counts: Int64[np.ndarray, " vocab"]
    num_words: int
    num_documents: int
    sample: list[str]


def count_files(
    files: Sequence[str],
    key: str,
    tokenizer: "PreTrainedTokenizerFast",
    on_progress: Callable[[int, int], None],
) -> CountedText:
    """Count the pieces of files: text, of which each line is read by itself, or a column of rows.

    Args:
        files: paths or globs.
        key: what messages call these files.
        tokenizer: of the pieces.
        on_progress: told how many bytes of how many are read.

    Raises:
        ConfigError: the format of a file is unknown.
        DataError: a pattern matches nothing, a file cannot be read, or nothing is in it.
    """
    inputs = resolve([FilesSource(files=list(files), documents="line")], key)
    reader = Reader(inputs)
    sample = _Sample()
    counter = PieceCounter(tokenizer)
    num_words = num_documents = 0
    for batch in _batches(reader.documents(inputs)):
        counter.add(batch)
        for text in batch:
            sample.add(text)
            num_words += len(text.split())
        num_documents += len(batch)
        on_progress(reader.bytes_read, reader.total_bytes or 0)
    if not num_words:
        raise DataError(f"{key}: there is no text in these files", "Name files with text in them.")
    return CountedText(counter.counts, num_words, num_documents, sample.texts)


def first_texts(data: DataConfig) -> list[str]:
    """The first documents that a store is made of, of about `SAMPLE_CHARS` characters.

    None at all where the text is not there any more: a store does not need it.
    """
    texts: list[str] = []
    num_chars = 0
    try:
        inputs, _ = inputs_of(data)
        for text in Reader(inputs).documents(inputs):
            texts.append(text)
            num_chars += len(text)
            if num_chars >= SAMPLE_CHARS:
                break
    except DataError:
        return []
    return texts


class PieceCounter:
    """Counts pieces, as `prepare` reads texts: control tokens that are written in one are text.

    Args:
        tokenizer: of the pieces.

    Attributes:
        counts: occurrences of each id so far, [vocab].
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        tree = text_backend(tokenizer)
        self._fast = Tokenizer.from_str(to_json(tree))
        self._words = Words(self._fast) if splits_at_spaces(tree) else None
        # Numbers may be left out: then there are fewer tokens than the largest id says.
        num_ids = max(tokenizer.get_vocab().values()) + 1
        self.counts: Int64[np.ndarray, " vocab"] = np.zeros(num_ids, dtype=np.int64)

    def add(self, texts: Sequence[str]) -> None:
        """Count the pieces of some more texts.

        Raises:
            DataError: the tokenizer gives up on one.
        """
        with naming_the_tokenizer():
            if self._words is not None:
                rows = self._words.ids(texts)
            else:
                encodings = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
                rows = [encoding.ids for encoding in encodings]
        ids = np.fromiter(chain.from_iterable(rows), dtype=np.int64)
        self.counts += np.bincount(ids, minlength=len(self.counts))


class _Sample:
    """Every document, then every second one, every fourth: as many as there is room for."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._num_chars = self._seen = 0
        self._every = 1

    def add(self, text: str) -> None:
        if self._seen % self._every == 0:
            self.texts.append(text)
            self._num_chars += len(text)
        self._seen += 1
        while self._num_chars > SAMPLE_CHARS and len(self.texts) > 1:
            self.texts = self.texts[::2]
            self._num_chars = sum(map(len, self.texts))
            self._every *= 2


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    num_chars = 0
    for text in texts:
        batch.append(text)
        num_chars += len(text)
        if num_chars >= _BATCH_CHARS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch
