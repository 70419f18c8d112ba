"""The processes of `prepare`: each tokenises on one core and writes the shards that it is given."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path

from distilcli.corpus.manifest import ShardRecord
from distilcli.corpus.recipe import Recipe
from distilcli.corpus.shards import Shard, ShardWriter

_PARALLELISM = "TOKENIZERS_PARALLELISM"
_writer: ShardWriter | None = None


@contextmanager
def on_one_core() -> Iterator[None]:
    """Tokenize in the calling thread alone: the number of processes is that of the cores."""
    before = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PARALLELISM]
        else:
            os.environ[_PARALLELISM] = before


def start_worker(folder: Path, recipe: Recipe) -> None:
    """Make this process ready to write shards of one store, on one core."""
    global _writer
    os.environ[_PARALLELISM] = "false"
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _writer = ShardWriter(folder, recipe)


def _die_with_parent() -> None:
    """Do not wait for work for ever after the parent was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def write_in_worker(shard: Shard) -> ShardRecord:
    """`ShardWriter.write` in a process that `start_worker` made ready."""
    assert _writer is not None
    return _writer.write(shard)
