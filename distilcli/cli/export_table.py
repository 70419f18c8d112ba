"""What `distilcli export` shows: a column for the teacher, the student and each format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from distilcli.errors import counted
from distilcli.evaluation.asked import TEACHER
from distilcli.evaluation.result import Table
from distilcli.export.folder import BATCH, Exported


def table_of(exported: Exported, what: str, title: Callable[[str], str]) -> Table:
    """Scores, how far they fall, sizes and times.

    Args:
        exported: what was written and measured.
        what: it was measured on.
        title: what a score is called.
    """
    certificates, speeds = exported.certificates, exported.speeds
    of_teacher = exported.of_teacher
    known = [TEACHER] if of_teacher or TEACHER in speeds else []
    names: list[str] = [*known, "student", *certificates]
    scores: dict[str, Mapping[str, float]] = {TEACHER: of_teacher, "student": exported.scores}
    scores |= {name: one.scores[BATCH] for name, one in certificates.items()}
    rows = [
        [title(score), *(_figure(scores[name].get(score)) for name in names)]
        for score in exported.scores
    ]
    first = next(iter(exported.scores))
    one_by_one = {name: c.scores.get(1, {}).get(first) for name, c in certificates.items()}
    if any(value is not None for value in one_by_one.values()):
        figures = (_figure(one_by_one.get(name)) for name in names)
        rows.append([f"{title(first)}, one by one", *figures])
    drops = {name: round(one.drop, 4) + 0.0 for name, one in certificates.items()}  # no -0.0
    rows.append([f"{title(first)} falls by", *(_figure(drops.get(name)) for name in names)])
    differences = {name: f"{one.difference:.1e}" for name, one in certificates.items()}
    rows.append(["outputs, furthest apart", *(differences.get(name, "-") for name in names)])
    if speeds:
        rows += _rows_of_speed(exported, names)
    return Table(f"measured on {what}", ["", *names], rows)


def notes_of(exported: Exported) -> list[str]:
    """Sentences that explain the table."""
    notes = [
        "Outputs, furthest apart: the largest difference between a number that the student gives "
        "and the one that the file gives for the same text. int8 and half precision round: what "
        "that costs is in the score."
    ]
    if exported.of_teacher:
        notes.append("The scores of the teacher are those that distilcli eval has measured.")
    for name, one in exported.certificates.items():
        if one.left_out:
            of_those = counted(len(one.left_out), "product")
            notes.append(f"{name} leaves {of_those} in fp32, because the score falls too far else.")
    if exported.speeds:
        threads = exported.record["threads"]
        of_threads = "one thread" if threads == 1 else f"{threads} threads"
        notes.append(
            f"Times are on the CPU, with {of_threads} for torch and onnxruntime alike: the median "
            "of 5 runs that take turns."
        )
    return notes


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _rows_of_speed(exported: Exported, names: Sequence[str]) -> list[list[str]]:
    """Sizes and times, and how many times as fast as the teacher each one is."""
    columns = [asdict(exported.speeds[name]) if name in exported.speeds else None for name in names]
    titles = {"mib": "MiB", "single_ms": "one input, ms", "batched_ms": "32 inputs, ms"}
    rows = [
        [title, *("-" if one is None else f"{one[key]:.1f}" for one in columns)]
        for key, title in titles.items()
    ]
    if TEACHER in exported.speeds:
        teacher = asdict(exported.speeds[TEACHER])
        for key, title in (("single_ms", "faster, one"), ("batched_ms", "faster, 32")):
            times = ["-" if one is None else f"{teacher[key] / one[key]:.1f} x" for one in columns]
            rows.append([title, *times])
    return rows
