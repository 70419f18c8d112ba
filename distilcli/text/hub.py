"""Rows of data sets on the hub, or of local folders that `datasets` reads, streamed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distilcli.config.data import HubSource, RowHub
from distilcli.errors import DataError
from distilcli.files.paths import resolve_path
from distilcli.hub.answers import hub_answer
from distilcli.text.globs import is_saved_data_set
from distilcli.text.row import IGNORE_INDEX


def hub_rows(
    source: HubSource | RowHub, columns: list[str], optional: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Stream the rows of a data set of the hub, or of a local folder that `datasets` reads.

    Args:
        source: which data set.
        columns: those that are wanted, where the data set says which it has. Numbers of classes
            become the names that the data set has for them; -1, by which `datasets` says that
            there is no label, becomes None.
        optional: those that are wanted where the data set has them.

    Raises:
        DataError: the data set cannot be found or read, or a number is that of no class.
    """
    number = 0
    folder = Path(resolve_path(source.hub))
    try:
        for row in _streamed_rows(source, folder, columns, optional):
            number += 1
            yield row
    except DataError as error:
        raise DataError(
            f"data set {source.hub} after row {number}: {error.message}", error.hint
        ) from error
    except Exception as error:  # network, hub and Arrow errors share no base class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        hint = "Check the name, subset, split and revision, and that the hub can be reached."
        if folder.is_dir():
            hint = "Check the folder, the split and the columns."
        else:
            answer = hub_answer(error, source.revision or "main", "data set")
            reason, hint = answer or (reason, hint)
        raise DataError(f"data set {source.hub} after row {number}: {reason}", hint) from error


def _streamed_rows(
    source: HubSource | RowHub, folder: Path, columns: list[str], optional: Sequence[str]
) -> Iterator[dict[str, Any]]:
    import datasets

    if is_saved_data_set(folder):
        rows = _saved_split(folder, source.split)
    else:
        rows = datasets.load_dataset(
            str(folder) if source.hub.startswith("~") else source.hub,
            source.subset,
            split=source.split,
            revision=source.revision,
            streaming=True,
        )
    if rows.column_names and set(columns) <= set(rows.column_names):
        there = (column for column in optional if column in rows.column_names)
        rows = rows.select_columns(list(dict.fromkeys([*columns, *there])))
    classes = {}
    for name, feature in (rows.features or {}).items():
        inner = getattr(feature, "feature", feature)  # of lists, what is in them
        if isinstance(inner, datasets.ClassLabel):
            classes[name] = inner.names
    for row in rows:
        for name, names in classes.items():
            row[name] = _named(row[name], names)
        yield row


def _saved_split(folder: Path, split: str) -> Any:
    """One split of what `save_to_disk` wrote, memory-mapped."""
    import datasets

    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise DataError(f"no split {split!r}; there are: {', '.join(saved)}", "Name another.")
        saved = saved[split]
    elif saved.split is not None and str(saved.split) != split:
        raise DataError(f"it holds the split {saved.split}", f"Set split to {saved.split}.")
    return saved.with_format(None)  # rows are plain Python values, whatever it was saved with


def _named(value: Any, names: list[str]) -> Any:
    """The class of a number, or the classes of several; -100, which is to be passed over, stays."""
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or value == IGNORE_INDEX:
        return value
    if not 0 <= value < len(names):
        raise DataError(
            f"class {value} of a data set that names {len(names)}", "Correct its features."
        )
    return names[value]
