"""`distilcli eval`: students beside their teacher, as a table and as results.json."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from distilcli.cli import evaluate_task
from distilcli.cli.console import Console, number, percent
from distilcli.cli.evaluated import TEACHER, Wanted, experiment_of, models_to_measure
from distilcli.cli.prepare import show_progress
from distilcli.cli.results import results_folder, settle_runs, show_and_write
from distilcli.config.data import FilesSource
from distilcli.config.experiment import Experiment, TaskExperiment
from distilcli.corpus.store import Split, TokenStore
from distilcli.corpus.text_cache import Reading, text_store
from distilcli.distillation.assembly import experiment_tokenizer, load_teacher, open_store
from distilcli.errors import ConfigError, DataError, ModelError
from distilcli.evaluation.comparison import Evaluation, evaluate
from distilcli.evaluation.held_out import held_out_masker
from distilcli.models.checks import check_vocabulary
from distilcli.models.families import num_positions
from distilcli.models.loading import load_masked_lm, read_config
from distilcli.text.tokenizers import load_tokenizer, tokenizer_fingerprint
from distilcli.training.processes import single_accelerator


@dataclass(frozen=True)
class _Text:
    """What models are measured on: a split of a store.

    Attributes:
        split: its sequences.
        store: the store.
        record: which text it is, for programs.
    """

    split: Split
    store: TokenStore
    record: dict[str, Any]


def run(wanted: Wanted, console: Console) -> None:
    """Evaluate the teacher and the named models or runs."""
    settle_runs(wanted.models)
    found = experiment_of(wanted)
    if isinstance(found, TaskExperiment):
        evaluate_task.run(wanted, found, console)
        return
    _refuse_what_does_not_fit(wanted, found)
    experiment = found or _experiment_of_models(wanted)
    folder = results_folder(wanted.models, wanted.output, experiment, bool(wanted.text))
    paths = models_to_measure(wanted, experiment)
    teacher = load_teacher(experiment)
    models = {} if teacher is None else {TEACHER: teacher}
    models |= {label: load_masked_lm(path, role="student") for label, path in paths.items()}
    if experiment.teacher is not None:
        paths = {TEACHER: experiment.teacher.model, **paths}
    tokenizer = experiment_tokenizer(experiment)
    if wanted.text:
        text = _other_text(wanted, experiment, tokenizer, paths, console)
    else:
        text = _held_out_text(experiment, tokenizer)
    for name, model in models.items():
        check_vocabulary(model, text.store, name)
    rows = evaluate(
        models,
        TEACHER if teacher is not None else None,
        text.split,
        held_out_masker(text.store, tokenizer, experiment.masking.mlm_probability),
        experiment.train.tokens_per_micro_batch,
        single_accelerator(),
        console.note,
        wanted.num_sequences,
        with_speed=wanted.speed is not False,
    )
    record = {
        "experiment": found.name if found else None,
        "text": text.record,
        "models": {row.name: {"path": paths[row.name], **row.record()} for row in rows},
    }
    console.result(show_and_write(record, folder, lambda: _show(rows, text, console), console))


def _refuse_what_does_not_fit(wanted: Wanted, found: Experiment | None) -> None:
    """Raises `ConfigError` where options contradict each other or what is there."""
    if wanted.dev:
        raise ConfigError(
            "--dev: examples are of a task, and there is no run on one",
            "Name the run, or --config FILE; --text FILES measures masked-LM models on text.",
        )
    if found is None and not wanted.text:
        raise ConfigError(
            "no experiment to evaluate with",
            "Give --config FILE or a run folder, such as runs/NAME; or --text FILES.",
        )
    if found is None and not wanted.models:
        raise ConfigError("--text: there is no model to measure", "Name a folder or a hub model.")
    if wanted.documents is not None and not wanted.text:
        raise ConfigError("--documents goes with --text")
    if wanted.teacher is not None and found is not None:
        raise ConfigError(
            "--teacher: the experiment names its teacher", "Override it: teacher.model=..."
        )


def _experiment_of_models(wanted: Wanted) -> Experiment:
    """Settings for models that belong to no run: defaults, as far as the models allow."""
    models = [*([wanted.teacher] if wanted.teacher else []), *wanted.models]
    positions = [num_positions(read_config(name, None, "model")) for name in models]
    tree: dict[str, Any] = {
        "name": "text",
        "teacher": {"model": wanted.teacher} if wanted.teacher else None,
        "student": {"kind": "checkpoint", "model": wanted.models[0]},
        "data": {"sources": [{"hub": "none"}], "store": "none"},  # neither is looked at
    }
    settings = Experiment.model_validate(tree)
    length = min(settings.data.max_length, *positions)
    data = settings.data.model_copy(update={"max_length": length})
    return settings.model_copy(update={"data": data})


def _held_out_text(experiment: Experiment, tokenizer: PreTrainedTokenizerFast) -> _Text:
    store = open_store(experiment, tokenizer)
    if not len(store.held_out):
        raise DataError(
            f"{experiment.data.store}: no held-out text to evaluate on",
            "Set data.held_out_fraction or data.held_out_sources and prepare another store; or "
            "name other text with --text.",
        )
    record = {"store": experiment.data.store, "split": "held_out"}
    return _Text(store.held_out, store, record)


def _other_text(
    wanted: Wanted,
    experiment: Experiment,
    tokenizer: PreTrainedTokenizerFast,
    paths: dict[str, str],
    console: Console,
) -> _Text:
    """Text that no experiment names, in a store of its own."""
    fingerprint = tokenizer_fingerprint(tokenizer)
    for name, path in paths.items():
        if name != TEACHER and tokenizer_fingerprint(load_tokenizer(path)) != fingerprint:
            raise ModelError(
                f"{name}: its tokenizer is another than that of {experiment.tokenizer_source}",
                "Measure models of one tokenizer at a time: figures of others are of other tokens.",
            )
    own = (part for part in experiment.data.sources if isinstance(part, FilesSource))
    source = next(own, FilesSource(files=["none"]))
    reading = Reading(
        documents=wanted.documents or source.documents,
        text_column=source.text_column,
        max_length=experiment.data.max_length,
        min_length=experiment.data.min_length,
    )
    with console.bar("reading text") as bar:
        store, folder = text_store(wanted.text, reading, tokenizer, show_progress(bar))
    counts = store.manifest.train
    record = {
        "files": list(wanted.text),
        "store": str(folder),
        "split": "train",
        "documents": counts.documents,
        "sequences": counts.sequences,
        "tokens": counts.tokens,
    }
    return _Text(store.train, store, record)


def _show(rows: list[Evaluation], text: _Text, console: Console) -> None:
    """One column a model, so that the table fits a terminal."""
    figures = {
        "accuracy": [percent(row.scores.accuracy) for row in rows],
        "retained": [percent(row.retained) for row in rows],
        "loss": [number(row.scores.loss) for row in rows],
        "perplexity": [number(row.scores.perplexity, 2) for row in rows],
        "agreement": [percent(row.scores.agreement) for row in rows],
        "KL to teacher": [number(row.scores.kl) for row in rows],
        "parameters": [f"{row.parameters:,}" for row in rows],
        "MiB": [f"{row.size_mib:.1f}" for row in rows],
    }
    speeds = [row.speed for row in rows if row.speed is not None]
    if speeds:
        figures |= {
            "latency, ms": [f"{speed.latency_ms:.1f}" for speed in speeds],
            "sequences/s": [f"{speed.sequences_per_second:.1f}" for speed in speeds],
        }
    table = [[name, *values] for name, values in figures.items()]
    console.table(_title(rows[0].scores.num_masked, text), ["", *(row.name for row in rows)], table)
    if speeds:
        console.say(
            f"latency: one sequence of {speeds[0].length} tokens; sequences/s: in batches of "
            f"{speeds[0].batch_size}; CPU, {speeds[0].threads} thread(s), medians"
        )


def _title(num_masked: int, text: _Text) -> str:
    if "files" not in text.record:
        return f"{num_masked:,} masked held-out tokens"
    record = text.record
    return (
        f"{', '.join(record['files'])}: {record['tokens']:,} tokens in "
        f"{record['sequences']:,} sequences, {num_masked:,} tokens of them masked"
    )
