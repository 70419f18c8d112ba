"""The classes of a task: in which order, whether they can be told apart, which is positive."""

import math
from collections import Counter
from collections.abc import Sequence

from distilcli.errors import ConfigError, DataError, ModelError
from distilcli.tasks.examples import BadExample
from distilcli.tasks.labels import class_key

# Written as classes where a table has no label; all of them may be the names of real classes.
_LIKE_NOTHING = {"nan", "null", "<na>", "-1"}
_SHOWN = 20


class Classes:
    """The classes of a task, and which of them a row means.

    Args:
        names: of the outputs, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._known = set(names)
        often = Counter(map(class_key, names))
        self._by_key = {class_key(name): name for name in names if often[class_key(name)] == 1}

    def name_of(self, written: str) -> str:
        """The class as it is named: the same, or the only one that differs in capitals alone.

        Raises:
            BadExample: there is no such class.
        """
        if written in self._known:
            return written
        name = self._by_key.get(class_key(written))
        if name is None:
            there = ", ".join(sorted(self.names)[:_SHOWN])
            raise BadExample(f"unknown class {written!r}; there are {there}")
        return name


def check_found(found: set[str]) -> None:
    """Refuse classes of which nobody can say whether they are the same.

    Raises:
        DataError: both bools and the numbers 0 or 1 are among them.
    """
    bools, numbers = found & {"true", "false"}, found & {"0", "1"}
    if bools and numbers:
        raise DataError(
            f"task.train: labels are both {min(bools)} and {min(numbers)}",
            "Write each class in one way.",
        )


def doubtful(names: Sequence[str]) -> list[str]:
    """Warnings of classes, as they were found in rows, that may not be what the user means."""
    warnings = []
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(class_key(name), []).append(name)
    for twins in by_key.values():
        if len(twins) > 1:
            warnings.append(
                f"classes {' and '.join(map(repr, twins))} differ in capitals alone; if they are "
                "one, list the classes in task.labels, this one once"
            )
    for name in names:
        if name.casefold() in _LIKE_NOTHING:
            warnings.append(
                f"{name!r} is taken for a class; if it says that there is no label, list the "
                "classes in task.labels, without it"
            )
    return warnings


def class_names(
    found: set[str],
    given: list[str] | None,
    of_teacher: list[str] | None,
    some_only: bool = False,
) -> list[str]:
    """Classes in the order of their ids: as the experiment lists them, the teacher's, or as found.

    Args:
        found: classes of the training examples.
        given: `task.labels`.
        of_teacher: names in the configuration of a fine-tuned teacher; None where it has none.
        some_only: whether there are training examples without labels, so that some classes of
            the teacher may not be among those found.

    Raises:
        ConfigError: `task.labels` are not different from one another, or fewer than two; or they
            are not given, and neither labels nor the teacher tell them.
        DataError: the classes of the examples cannot be told from one another.
        ModelError: the teacher's classes are others than the experiment's or the data's.
    """
    check_found(found)
    if some_only and given is None:
        named = of_teacher is not None and not _are_generic(of_teacher)
        if named and _are_among(found, of_teacher or []):
            return list(of_teacher or [])
        if not found:
            raise ConfigError(
                "task.labels: no row to train on has a label, and the teacher does not name its "
                "classes",
                "List them in the order of the teacher's outputs: task.labels=[a, b, ...]",
            )
    names = given or sorted(found, key=_by_number)
    if len(set(names)) != len(names) or len(names) < 2:
        raise ConfigError(
            f"task.labels: {', '.join(names) or 'none'}", "A task needs two classes or more."
        )
    if of_teacher is None:
        return names
    generic = _are_generic(of_teacher)
    # Data that has ids and no names says nothing about the teacher's names.
    are_ids = names == [str(index) for index in range(len(names))]
    alike = same_classes(of_teacher, names)
    generic = generic or (are_ids and not alike)
    if not alike and not (generic and len(of_teacher) == len(names)):
        raise ModelError(
            f"the teacher's classes are {_few(of_teacher)}, the task's are {_few(names)}",
            _way_out(names, of_teacher),
        )
    if generic:
        return names
    if given is None:
        return of_teacher
    if [class_key(name) for name in of_teacher] != [class_key(name) for name in names]:
        raise ModelError(
            f"the teacher's classes are in the order {_few(of_teacher)}, task.labels says "
            f"{_few(names)}",
            f"List them in the teacher's order: task.labels=[{', '.join(of_teacher)}]",
        )
    return names


def _are_generic(names: Sequence[str]) -> bool:
    """Whether these are the names that transformers gives outputs by itself."""
    return all(name == f"LABEL_{index}" for index, name in enumerate(names))


def _are_among(found: set[str], names: Sequence[str]) -> bool:
    """Whether each class found is one of those named; capitals do not count where one is meant."""
    classes = Classes(names)
    try:
        return all(classes.name_of(name) for name in found)
    except BadExample:
        return False


def same_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists name the same classes, in any order; capitals do not count.

    They do where a class of the first list would not be one any more without its capitals.
    """
    keys = {class_key(name) for name in one}
    if len(keys) < len(one):
        return set(one) == set(other)
    return keys == {class_key(name) for name in other}


def places_of(labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """Which of some names each class is.

    Args:
        labels: the classes.
        names: of the same classes, as `same_classes` has it.
    """
    known, wanted = list(names), list(labels)
    if set(known) != set(wanted):
        known, wanted = ([class_key(name) for name in side] for side in (names, labels))
    return [known.index(name) for name in wanted]


def _way_out(names: Sequence[str], of_teacher: Sequence[str]) -> str:
    """What to do where the teacher's classes are not the task's."""
    if {class_key(name) for name in names} < {class_key(name) for name in of_teacher}:
        return (
            f"The rows have only some of them: list them all, task.labels=[{', '.join(of_teacher)}]"
        )
    return (
        "Use a teacher that was fine-tuned on this task. If its classes mean the same, give them "
        "the names of the rows, in id2label of its config.json."
    )


def positive_class(
    labels: Sequence[str], named: str | None, given: Sequence[str] | None
) -> str | None:
    """The class of two that F1 is of, whatever the order of a teacher's outputs.

    Args:
        labels: of the outputs.
        named: `task.positive`.
        given: `task.labels`, of which else the last is taken; None: the last one, sorted.

    Returns:
        One of the labels; None where there are more than two.

    Raises:
        ConfigError: one is named that there is not, or where there are more than two.
    """
    if len(labels) != 2:
        if named is not None:
            raise ConfigError(
                f"task.positive: {named}, but there are {len(labels)} classes",
                "Leave it out: macro_f1 is the mean of F1 over classes.",
            )
        return None
    last = given[-1] if given else max(labels, key=lambda name: _by_number(class_key(name)))
    try:
        return Classes(labels).name_of(named if named is not None else last)
    except BadExample as error:
        raise ConfigError(f"task.positive: {error}", "Name one of them.") from None


def _by_number(name: str) -> tuple[bool, float, str]:
    """Sorts 2 before 10, and numbers before words."""
    try:
        number_of = float(name)
    except ValueError:
        number_of = math.inf
    return (False, number_of, name) if math.isfinite(number_of) else (True, 0.0, name)


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
