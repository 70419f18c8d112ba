"""`distilcli prepare`: text to token store, or the rows of a task looked at."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerFast

from distilcli.cli.console import Bar, Console
from distilcli.config.experiment import Experiment, TaskExperiment
from distilcli.corpus.prepare import Progress, is_prepared, prepare
from distilcli.corpus.store import TokenStore
from distilcli.distillation.assembly import (
    experiment_tokenizer,
    open_store,
    open_task_of,
    store_warnings,
)
from distilcli.errors import DataError
from distilcli.tasks.task import OpenTask
from distilcli.text.vocabulary import unknown_share
from distilcli.training.places import check_places

_LONG_FIELDS = {"token_counts", "length_histogram", "shards", "digests", "stamps", "seal"}


def run(experiment: Experiment | TaskExperiment, num_proc: int, console: Console) -> None:
    """Prepare the experiment's store, or say that it is there, and show what it holds."""
    if isinstance(experiment, TaskExperiment):
        _look_at_task(experiment, console)
        return
    check_places(experiment)
    tokenizer = experiment_tokenizer(experiment)
    store = None
    if is_prepared(experiment.data, tokenizer):
        try:
            store = open_store(experiment, tokenizer)
            console.note(f"{experiment.data.store}: already prepared")
        except DataError as error:
            console.warn(f"{error.message}; what is damaged is made anew")
    if store is None:
        with console.bar("prepare") as bar:
            store = prepare(experiment.data, tokenizer, num_proc, show_progress(bar))
    _show(store, tokenizer, experiment.data.store, console)


def _look_at_task(experiment: TaskExperiment, console: Console) -> None:
    """Read every row, so that what is wrong is known before a run; nothing is written."""
    task = open_task_of(experiment)
    skipped = task.skipped.train, task.skipped.dev
    record: dict[str, Any] = {"labels": task.labels, "positive": task.positive}
    rows = []
    splits = ("train", "dev"), (task.train, task.dev), task.num_examples, task.cuts, skipped
    for name, inputs, examples, cut, bad in zip(*splits, strict=True):
        tokens = int(inputs.lengths.sum())
        record[name] = {
            "examples": examples,
            "inputs": len(inputs),
            "tokens": tokens,
            "cut": cut.inputs,
            "tokens_cut": cut.tokens,
            "skipped": bad,
        }
        rows.append([name, *(f"{value:,}" for value in record[name].values())])
    columns = ["split", "examples", "inputs", "tokens", "cut", "tokens cut", "bad rows left out"]
    console.table(f"task of {experiment.name}", columns, rows)
    console.say(f"outputs: {', '.join(task.labels)}")
    train_share, dev_share = task.unknown_shares
    console.say(f"unknown tokens: {train_share:.2%} of train, {dev_share:.2%} of dev")
    console.say(_cuts(task))
    if task.positive is not None:
        console.say(f"f1 is of the class {task.positive}")
    for warning in task.warnings:
        console.warn(warning)
    unknown_shares = dict(zip(("train", "dev"), task.unknown_shares, strict=True))
    console.result(record | {"unknown_share": unknown_shares, "warnings": task.warnings})


def look_at_rows(experiment: TaskExperiment, console: Console) -> OpenTask:
    """The experiment's task, after warnings of what a user should know of its rows.

    Raises:
        DataError: there are bad rows, or those to train on and to be measured on are the same.
    """
    task = open_task_of(experiment)
    task.overlap.refuse_same()
    tell_of_task(task, console)
    return task


def tell_of_task(task: OpenTask, console: Console) -> None:
    """Warn of what a user should know of the rows before trusting a score."""
    for split, count, skipped in (
        ("train", task.num_examples[0], task.skipped.train),
        ("dev", task.num_examples[1], task.skipped.dev),
    ):
        if skipped:
            console.warn(f"{split}: {skipped:,} bad rows are left out of {count + skipped:,}")
    console.note(_cuts(task))
    if task.positive is not None:
        console.note(f"f1 is of the class {task.positive}")
    for warning in task.warnings:
        console.warn(warning)


def _cuts(task: OpenTask) -> str:
    """How many texts are too long to be shown whole, and what share of the tokens that is."""
    longest = max(int(inputs.lengths.max()) for inputs in (task.train, task.dev))
    if not any(cut.inputs for cut in task.cuts):
        return f"no text is cut; the longest input has {longest:,} tokens"
    parts = (
        f"{cut.inputs:,} of {split}, {cut.share:.1%} of its tokens"
        for split, cut in zip(("train", "dev"), task.cuts, strict=True)
    )
    return f"texts that are cut: {'; '.join(parts)}; the longest input has {longest:,} tokens"


def show_progress(bar: Bar) -> Callable[[Progress], None]:
    """A callback that draws `prepare`'s progress on a bar."""

    def show(progress: Progress) -> None:
        text = f"{progress.documents:,} documents, {progress.tokens:,} tokens"
        bar.update(progress.bytes_read, progress.total_bytes, text)

    return show


def _show(
    store: TokenStore, tokenizer: PreTrainedTokenizerFast, folder: str, console: Console
) -> None:
    manifest = store.manifest
    share = unknown_share(store.token_counts, tokenizer)
    rows = [
        [name, f"{split.documents:,}", f"{split.sequences:,}", f"{split.tokens:,}", unknown]
        for name, split, unknown in (
            ("train", manifest.train, f"{share:.2%}"),
            ("held out", manifest.held_out, "-"),  # tokens are counted where they are trained on
        )
    ]
    columns = ["split", "documents", "sequences", "tokens", "unknown"]
    console.table(f"token store {folder}", columns, rows)
    for reason, dropped in manifest.dropped.items():
        what = reason.replace("_", " ")
        console.say(f"dropped as {what}: {dropped.count:,} with {dropped.tokens:,} tokens")
    for warning in store_warnings(store, tokenizer):
        console.warn(warning)
    console.result({"store": folder, **manifest.model_dump(mode="json", exclude=_LONG_FIELDS)})
