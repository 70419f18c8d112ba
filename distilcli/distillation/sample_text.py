"""Masked sequences of a text, which a narrower student is made by."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedTokenizerFast

from distilcli.batches.masked import PackedBatch, pack_masked
from distilcli.batches.masking import Masker
from distilcli.batches.packing import by_length, spread
from distilcli.config.data import FilesSource, MaskingConfig
from distilcli.corpus.store import Split
from distilcli.errors import DataError
from distilcli.models.narrowing.moments import NUM_SEQUENCES, NUM_TOKENS, TOKENS_AT_ONCE
from distilcli.text.sources import Reader, resolve
from distilcli.text.tokenizers import TextTokenizer


def masked_sample(
    split: Split,
    token_counts: Int64[np.ndarray, " vocab"],
    tokenizer: PreTrainedTokenizerFast,
    masking: MaskingConfig,
    seed: int,
) -> list[PackedBatch]:
    """Sequences at even distances, masked as in the first epoch of training.

    Args:
        split: what they are of.
        token_counts: how often each id occurs.
        tokenizer: of the ids.
        masking: how they are masked.
        seed: of the masks.
    """
    masker = Masker(masking, tokenizer, len(token_counts), token_counts, seed)
    samples = spread(split.lengths, NUM_SEQUENCES, NUM_TOKENS)
    batches = by_length(samples, split.lengths, TOKENS_AT_ONCE)
    return [pack_masked(split, batch, masker, epoch=0) for batch in batches]


def sample_of_files(
    files: Sequence[str],
    key: str,
    tokenizer: PreTrainedTokenizerFast,
    vocab_size: int,
    max_length: int,
) -> list[PackedBatch]:
    """The first texts of files, each line or row by itself and cut where it is too long, masked.

    Args:
        files: paths or globs.
        key: what messages call these files.
        tokenizer: of the model.
        vocab_size: of the model.
        max_length: most tokens of a sequence.

    Raises:
        ConfigError: the format of a file is unknown.
        DataError: a pattern matches nothing, a file cannot be read, or nothing is in it.
    """
    inputs = resolve([FilesSource(files=list(files), documents="line")], key)
    encode = TextTokenizer(tokenizer)
    rows: list[list[int]] = []
    num_tokens = 0
    for text in Reader(inputs).documents(inputs):
        if not text.strip():
            continue
        rows.append(encode(text, truncation=True, max_length=max_length)["input_ids"])
        num_tokens += len(rows[-1])
        if num_tokens >= NUM_TOKENS:
            break
    if not rows:
        raise DataError(f"{key}: there is no text in these files", "Name files with text in them.")
    values = np.concatenate(rows).astype(np.int32)
    offsets = np.cumsum([0, *map(len, rows)])
    counts = np.bincount(values, minlength=vocab_size)
    return masked_sample(Split([(values, offsets)]), counts, tokenizer, MaskingConfig(), seed=0)
