"""How much of a text the model behind written outputs has read, as `distilcli predict` says.

A student that reads more than its teacher did learns what the teacher said of something else. A
model that is the teacher sets a bound by its positions; of a file this is all that is known of it.
"""

from collections.abc import Iterator
from typing import Any

from distilcli.config.data import RowFiles
from distilcli.errors import ConfigError, DataError
from distilcli.tasks.examples import first_values
from distilcli.text.globs import matching_files

LENGTH_COLUMN = "max_length"


def length_read(task: Any) -> int | None:
    """Tokens of a text that the model behind a task's outputs has read at most; None: nobody says.

    Args:
        task: section of the settings, of any kind that rows may bring outputs of.
    """
    outputs = getattr(task, "teacher_outputs", None)
    if outputs is None or outputs.are_ids_alone:
        return None
    sources = [outputs.source]
    if outputs.source is None:
        sources = [getattr(task, split, None) for split in ("train", "transfer")]
    found = [length for source in sources for length in _lengths_in(source)]
    return min(found, default=None)


def _lengths_in(source: Any) -> Iterator[int]:
    """What the first row of each file says; files that cannot be read are told of elsewhere."""
    if not isinstance(source, RowFiles):
        return
    try:
        for path in matching_files(source.files, "task.teacher_outputs"):
            one = source.model_copy(update={"files": [str(path)]})
            value = str(first_values(one, [LENGTH_COLUMN]).get(LENGTH_COLUMN, "")).strip()
            if value.isdecimal() and int(value) > 0:
                yield int(value)
    except (ConfigError, DataError):
        return
