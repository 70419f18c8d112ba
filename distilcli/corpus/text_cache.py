"""Token stores of texts that models are only measured on, kept for the next time.

They lie in $XDG_CACHE_HOME/distilcli/text (without that variable in ~/.cache/distilcli/text), one
for each combination of files, tokenizer and settings, and may be removed at any time. A file that
has another size or time of change is another text.

    distilcli eval runs/quickstart --text other.txt --documents line
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EACCES
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distilcli.config.data import DataConfig
from distilcli.corpus.prepare import MIB, Progress, finished_store, prepare
from distilcli.corpus.store import TokenStore
from distilcli.errors import ConfigError, DataError
from distilcli.files.atomic import unwritten
from distilcli.files.json_text import to_json
from distilcli.text.globs import matching_files
from distilcli.text.sources import ENDINGS
from distilcli.text.tokenizers import tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_OPTION = "--text"


@dataclass(frozen=True)
class Reading:
    """How a text is read.

    Attributes:
        documents: what one document of a text file is; None where nobody has said.
        text_column: of JSONL, CSV, TSV and Parquet.
        max_length: tokens of a sequence at most.
        min_length: sequences of fewer tokens are dropped.
    """

    documents: str | None
    text_column: str
    max_length: int
    min_length: int


def cache_folder() -> Path:
    """The folder of all these stores."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "distilcli" / "text"


def text_store(
    patterns: Sequence[str],
    reading: Reading,
    tokenizer: "PreTrainedTokenizerFast",
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[TokenStore, Path]:
    """The store of some files and its folder, made when it is asked for first.

    All of the text is its training split.

    Args:
        patterns: paths or globs.
        reading: how.
        tokenizer: of the models.
        on_progress: see `prepare`.

    Raises:
        ConfigError: it is not said what a document of a text file is.
        DataError: a pattern matches nothing, a file cannot be read, or the cache not be written.
    """
    files = [path.absolute() for path in _files(patterns)]
    _check_documents(files, reading)
    source = {"files": [str(path) for path in files], "text_column": reading.text_column}
    tree: dict[str, Any] = {
        "sources": [source | {"documents": reading.documents}],
        "held_out_fraction": 0.0,
        "max_length": reading.max_length,
        "min_length": reading.min_length,
    }
    sizes = [path.stat() for path in files]
    # The second time no program can set: an edit that puts the first one back shows in it.
    times = [(status.st_size, status.st_mtime_ns, status.st_ctime_ns) for status in sizes]
    key = to_json([tree, times, tokenizer_fingerprint(tokenizer)], sort_keys=True)
    name = blake2b(key.encode("utf-8"), digest_size=16).hexdigest()
    data = DataConfig.model_validate(tree | {"store": str(cache_folder() / name)})
    folder = Path(data.store)
    store = finished_store(data, tokenizer)  # one that is damaged is made anew below
    if store is not None:
        return store, folder
    _check_place()
    # One process for each shard: to start more takes longer than to tokenise so little.
    shards = sum(status.st_size for status in sizes) // (data.shard_mib * MIB) + 1
    try:
        return prepare(data, tokenizer, min(shards, os.cpu_count() or 1), on_progress), folder
    except DataError as error:
        raise DataError(f"{_OPTION}: {error.message}", error.hint) from error


def _check_place() -> None:
    """Name the variable, which nobody who asks for a text has set, and not the store's key."""
    place = cache_folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES), str(place))
    except OSError as error:
        hint = "Set XDG_CACHE_HOME to a folder that you may write to."
        what = f"{_OPTION}: {place}, where its tokens are kept,"
        raise unwritten(what, error, DataError, hint) from error


def _files(patterns: Sequence[str]) -> list[Path]:
    try:
        return matching_files(patterns, _OPTION)
    except DataError as error:  # which speaks of `files`, a key of settings
        message = error.message.replace(f"{_OPTION}.files:", f"{_OPTION}:")
        raise DataError(message, error.hint) from error


def _check_documents(files: list[Path], reading: Reading) -> None:
    for path in files:
        ending = next((end for end in reversed(path.suffixes) if end.lower() != ".gz"), "")
        if ENDINGS.get(ending.lower()) == "text" and reading.documents is None:
            raise ConfigError(
                f"--documents: must be said for text files such as {path}",
                "Say what one document is: file, line or blank-line.",
            )
