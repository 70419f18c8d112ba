"""The rows of a task, looked at before anything is trained or measured on them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distilcli.config.data import RowFiles
from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.run_kind import Audience
from distilcli.distillation.task_parts import open_task_of
from distilcli.errors import ConfigError, counted
from distilcli.evaluation.asked import Asked
from distilcli.evaluation.result import Result, Table
from distilcli.models.task_models import teacher_labels
from distilcli.tasks.inputs import Cut, Inputs, part_of
from distilcli.tasks.open import expanded
from distilcli.tasks.task import OpenTask


def look_at_rows(experiment: TaskExperiment, audience: Audience) -> OpenTask:
    """The experiment's task, after warnings of what a user should know of its rows.

    Raises:
        DataError: there are bad rows, or those to train on and to be measured on are the same.
    """
    task = open_task_of(experiment)
    task.overlap.refuse_same()
    tell_of_task(task, audience)
    return task


def refuse_asked_of_text(asked: Asked) -> None:
    """Refuse options of a measurement that say nothing of a task.

    Raises:
        ConfigError: naming the option.
    """
    if asked.text:
        raise ConfigError(
            "--text measures masked-LM models, and this experiment is on a task",
            "Measure its student on other examples: --dev FILE (repeat it, or quote a glob).",
        )
    if asked.documents is not None or asked.teacher is not None:
        option = "--documents" if asked.documents is not None else "--teacher"
        raise ConfigError(f"{option} can only be used with --text")
    if asked.num_sequences is not None and not asked.speed:
        raise ConfigError(
            "--num-sequences: on a task it says how many inputs are timed",
            "Give --speed too, or leave it out: scores are of all dev examples.",
        )


def tell_of_task(task: OpenTask, audience: Audience) -> None:
    """Warn of what a user should know of the rows before trusting a score."""
    of_train, of_transfer = (0, 0) if task.unlabelled is None else task.unlabelled.examples
    for split, count, skipped in (
        ("train", task.num_examples[0] + of_train, task.skipped.train),
        ("transfer", of_transfer, task.skipped.transfer),
        ("dev", task.num_examples[1], task.skipped.dev),
    ):
        if skipped:
            audience.warn(f"{split}: bad rows left out: {skipped:,} of {count + skipped:,}")
    for note in (cuts_of(task), *task.notes):
        audience.note(note)
    if task.unlabelled is not None:
        audience.note(
            f"rows to train on: {task.num_examples[0]:,} with a label, {of_train + of_transfer:,} "
            f"without ({of_train:,} of task.train, {of_transfer:,} of task.transfer)"
        )
    if task.positive is not None:
        audience.note(f"f1 is of the class {task.positive}")
    for key in sorted(task.own_readers):
        audience.note(f"{key} reads the texts by itself, with its own tokenizer, and padded")
    for warning in task.warnings:
        audience.warn(warning)


def tell_of_shown(task: OpenTask, audience: Audience, words: Mapping[str, str]) -> None:
    """Tell what becomes of rows that a model is shown, and of nothing that is measured.

    Args:
        task: with these rows as those to train on.
        audience: is told.
        words: what is said instead of words of the settings.
    """

    def said(text: str) -> str:
        for old, new in words.items():
            text = text.replace(old, new)
        return text

    skipped = task.skipped.train + task.skipped.transfer
    if skipped:
        audience.warn(f"bad rows left out: {skipped:,} of {len(task.examples) + skipped:,}")
    cut = task.cuts[0] if task.unlabelled is None else task.cuts[0] + task.unlabelled.cut
    if cut.inputs:
        audience.note(f"cut: {counted(cut.inputs, 'text')}, {cut.share:.1%} of the tokens")
    for key in sorted(task.own_readers):
        audience.note(said(f"{key} reads the texts by itself, with its own tokenizer, and padded"))
    for warning in task.warnings_of_inputs:
        audience.warn(said(warning))


def with_other_dev(experiment: TaskExperiment, files: tuple[str, ...]) -> TaskExperiment:
    """The experiment with other dev examples, in columns of the same names."""
    task: Any = expanded(experiment.task, teacher_labels(experiment))
    rows = RowFiles(files=list(files))
    if isinstance(task.dev, RowFiles):
        # What was said of the files before holds for others of their kind.
        same_kind = Path(files[0]).suffix == Path(task.dev.files[0]).suffix
        rows = task.dev.model_copy(
            update={"files": rows.files, "format": task.dev.format if same_kind else "auto"}
        )
    return experiment.model_copy(update={"task": task.model_copy(update={"dev": rows})})


def rows_of(task: OpenTask, title: str) -> Result:
    """What a task's rows are: examples, inputs, what is cut or left out."""
    record: dict[str, Any] = {"labels": task.labels, "positive": task.positive}
    rows = []
    for name, split in _splits(task).items():
        record[name.replace(" ", "_")] = split
        rows.append([name, *(f"{value:,}" for value in split.values())])
    columns = ["split", "examples", "inputs", "tokens", "cut", "tokens cut", "bad rows left out"]
    shares = (f"{share:.2%} of {split}" for split, share in task.unknown_shares.items())
    lines = [
        f"outputs: {task.outputs.in_words or ', '.join(task.labels)}",
        f"unknown tokens: {', '.join(shares)}",
        cuts_of(task),
        *task.notes,
    ]
    if task.positive is not None:
        lines.append(f"f1 is of the class {task.positive}")
    if task.unlabelled is not None:
        of_train, of_transfer = task.unlabelled.examples
        lines.append(
            f"without labels: {of_train:,} of task.train, {of_transfer:,} of task.transfer"
        )
        record["without_labels"]["examples_of"] = {"train": of_train, "transfer": of_transfer}
    record["unknown_share"] = task.unknown_shares
    record |= {"notes": list(task.notes), "warnings": task.warnings}
    return Result(Table(title, columns, rows), lines, record, task.warnings)


def _splits(task: OpenTask) -> dict[str, dict[str, int]]:
    """What each split has, by what tables call it."""
    of_train = len(task.train)
    if task.unlabelled is not None:
        of_train -= sum(task.unlabelled.inputs)
    labelled = part_of(task.train, 0, of_train)
    found = {"train": _split(task.num_examples[0], labelled, task.cuts[0], task.skipped.train)}
    if task.unlabelled is not None:
        others = part_of(task.train, of_train, len(task.train))
        found["without labels"] = _split(
            sum(task.unlabelled.examples), others, task.unlabelled.cut, task.skipped.transfer
        )
    return found | {"dev": _split(task.num_examples[1], task.dev, task.cuts[1], task.skipped.dev)}


def _split(examples: int, inputs: Inputs, cut: Cut, skipped: int) -> dict[str, int]:
    return {
        "examples": examples,
        "inputs": len(inputs),
        "tokens": int(inputs.lengths.sum()),
        "cut": cut.inputs,
        "tokens_cut": cut.tokens,
        "skipped": skipped,
    }


def cuts_of(task: OpenTask) -> str:
    """How many texts are too long to be shown whole, and what share of the tokens that is."""
    longest = max(int(inputs.lengths.max()) for inputs in (task.train, task.dev))
    cuts = {"train": task.cuts[0], "dev": task.cuts[1]}
    if task.unlabelled is not None:
        cuts = {"train": task.cuts[0], "rows without labels": task.unlabelled.cut} | cuts
    if not any(cut.inputs for cut in cuts.values()):
        return f"no text is cut; the longest input has {longest:,} tokens"
    parts = (
        f"{cut.inputs:,} of {split}, {cut.share:.1%} of its tokens" for split, cut in cuts.items()
    )
    return f"texts that are cut: {'; '.join(parts)}; the longest input has {longest:,} tokens"
