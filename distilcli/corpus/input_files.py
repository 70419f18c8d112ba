"""Whether the files that a token store was made from are still what they were.

Size and path show most changes. An edit that leaves the size as it was shows in the times of
change, which are kept to the nanosecond: the later one (ctime) no program can set. Where times
differ, as in a copy, the content decides: then the file is read once per start (10 GB: 1.2 s from
memory, 5 s from a disk of 2 GB/s). `prepare` reads each file once more for its digest.
"""

import os
from functools import lru_cache
from pathlib import Path

from distilcli.config.data import DataConfig
from distilcli.corpus.manifest import SOURCE_KEYS, InputStamp, Manifest
from distilcli.errors import DataError
from distilcli.files.digests import file_digest
from distilcli.text.documents import InputFile
from distilcli.text.sources import Input, resolve


def inputs_of(data: DataConfig) -> tuple[list[Input], list[Input]]:
    """What is trained on, and what is held out from sources of its own.

    Raises:
        ConfigError, DataError: see `sources.resolve`.
    """
    train_key, held_out_key = SOURCE_KEYS
    return resolve(data.sources, train_key), resolve(data.held_out_sources or [], held_out_key)


def input_files(data: DataConfig) -> list[InputFile]:
    """Every file that `data` names, in reading order.

    Raises:
        ConfigError, DataError: see `sources.resolve`.
    """
    inputs = [part for parts in inputs_of(data) for part in parts]
    return [part for part in inputs if isinstance(part, InputFile)]


def names_and_sizes(files: list[InputFile]) -> list[tuple[str, int]]:
    """What the manifest says of each file."""
    return [(file.name, file.num_bytes) for file in files]


def changed_file(data: DataConfig, manifest: Manifest, *, by_content: bool = True) -> str | None:
    """The first input file that is not as it was when the store was made.

    Args:
        data: names the files.
        manifest: of the store.
        by_content: also find an edit that left path and size as they were; of a store from before
            there were digests it cannot be found.
    """
    try:
        files = input_files(data)
    except DataError:
        return None  # not there: the store may have been copied to where only training happens
    changed = set(names_and_sizes(files)) ^ set(manifest.files)
    if changed:
        return min(changed)[0]
    stamps = manifest.stamps or {}
    if by_content:
        for file in files:
            if file.name in stamps and not _is_same(file.path, stamps[file.name]):
                return file.name
    return None


def stamps_of(files: list[InputFile], times_before: list[tuple[int, int]]) -> dict[str, InputStamp]:
    """A stamp of each file by its name, after all of them were read.

    Args:
        files: the files.
        times_before: the `times` of each before it was read.

    Raises:
        DataError: one has changed meanwhile.
        OSError: one cannot be read any more.
    """
    for file, before in zip(files, times_before, strict=True):
        if times(file.path) != before:
            raise DataError(
                f"{file.path}: has changed while it was being read",
                "Run the command again: shards whose text is the same are kept.",
            )
    return {file.name: _stamp(file.path) for file in files}


def _stamp(path: Path) -> InputStamp:
    """The file as it is now.

    Raises:
        OSError: it cannot be read.
    """
    status = path.stat()
    digest = _digest(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return InputStamp(mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns, digest=digest)


def times(path: Path) -> tuple[int, int]:
    """Nanoseconds of the last changes of content, and of content or anything else."""
    status: os.stat_result = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns


def _is_same(path: Path, before: InputStamp) -> bool:
    try:
        if times(path) == (before.mtime_ns, before.ctime_ns):
            return True
        return _stamp(path).digest == before.digest
    except OSError:
        return False


@lru_cache(maxsize=65536)
def _digest(path: Path, _size: int, _mtime_ns: int, _ctime_ns: int) -> str:
    """`file_digest`, once per process for a file that stays as it is."""
    return file_digest(path)
