"""What each command does, and how its result is shown to people and to programs."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from distilcli.assembly import (
    Parts,
    check_student,
    check_vocabulary,
    ensure_store,
    experiment_tokenizer,
    load_initial_student,
    load_teacher,
    make_student,
    open_store,
    save_initial_student,
    student_description,
)
from distilcli.attention import use_packed_attention
from distilcli.batches import held_out_batches
from distilcli.config import CopiedStudent, Experiment
from distilcli.console import Console, TrainingLog, duration, number, percent
from distilcli.corpus import Progress, is_prepared
from distilcli.errors import ConfigError, ModelError, RunFolderError
from distilcli.evaluation import Evaluation, evaluate
from distilcli.experiment_file import load
from distilcli.models import MaskedLM, load_masked_lm, num_parameters, size_mib
from distilcli.precision import resolve_precision
from distilcli.preflight import Preflight, preflight
from distilcli.run_folder import RunFolder, write_atomically
from distilcli.store import TokenStore, load_tokenizer
from distilcli.students import build_student, layer_map, layer_table
from distilcli.training import Events, TrainResult, make_accelerator, train
from distilcli.validation import HeldOutScores, held_out_masker, held_out_scores


def prepare_and_show(experiment: Experiment, num_proc: int, console: Console) -> None:
    """`distilcli prepare`."""
    tokenizer = experiment_tokenizer(experiment)
    if is_prepared(experiment.data, tokenizer):
        console.note(f"{experiment.data.store}: already prepared")
    with console.bar("prepare", "tokens") as bar:
        store = ensure_store(experiment, tokenizer, num_proc, _progress_to(bar))
    _show_store(store, experiment.data.store, console)


def _progress_to(bar: Any) -> Any:
    def show(progress: Progress) -> None:
        text = f"{progress.documents:,} documents, {progress.tokens:,} tokens"
        bar.update(progress.bytes_read, progress.total_bytes, text)

    return show


def _show_store(store: TokenStore, folder: str, console: Console) -> None:
    manifest = store.manifest
    rows = [
        [name, f"{split.documents:,}", f"{split.sequences:,}", f"{split.tokens:,}"]
        for name, split in (("train", manifest.train), ("held out", manifest.held_out))
    ]
    console.table(f"token store {folder}", ["split", "documents", "sequences", "tokens"], rows)
    for reason, dropped in manifest.dropped.items():
        console.say(f"dropped, {reason}: {dropped.count:,} of {dropped.tokens:,} tokens")
    console.result({"store": folder, **manifest.model_dump(mode="json", exclude=_LONG_FIELDS)})


_LONG_FIELDS = {"token_counts", "length_histogram", "shards"}


def init_from_experiment(experiment: Experiment, force: bool, console: Console) -> None:
    """`distilcli init-student --config FILE`."""
    folder = RunFolder(experiment.run_folder)
    if folder.has_run:
        raise RunFolderError(
            f"{folder.root}: training has begun here; its student is not replaced",
            "Choose another name=..., or train with --force to start again.",
        )
    _refuse_existing(folder.initial_student, force)
    tokenizer = experiment_tokenizer(experiment)
    teacher = load_teacher(experiment)
    student = make_student(experiment, teacher)
    store = None
    if is_prepared(experiment.data, tokenizer):
        store = open_store(experiment, tokenizer)
    save_initial_student(student, tokenizer, folder.initial_student)
    source = _copied_from(experiment, teacher)
    indices = _copied_layers(experiment, source)
    quality = {}
    if store is not None and len(store.held_out):
        models = {"student": student} | ({"teacher": teacher} if teacher is not None else {})
        quality = _quick_quality(models, experiment, store, tokenizer)
    else:
        console.note("no prepared store: the held-out loss is not measured")
    _show_student(student, teacher, indices, quality, folder.initial_student, console)


def init_from_teacher(
    teacher_name: str,
    output: Path,
    layers: str | None,
    num_layers: int | None,
    strategy: str | None,
    force: bool,
    console: Console,
) -> None:
    """`distilcli init-student --teacher MODEL --output DIR`."""
    if layers is not None and strategy is not None:
        raise ConfigError("--layers and --strategy exclude each other")
    _refuse_existing(output, force)
    chosen: Any = strategy or "alternate"
    if layers is not None:
        chosen = _parse_layers(layers)
    try:
        settings = CopiedStudent(num_layers=num_layers, layers=chosen)
    except ValueError:
        raise ConfigError(f"--strategy {strategy}: not alternate, spread, top or bottom") from None
    tokenizer = load_tokenizer(teacher_name)
    teacher = load_masked_lm(teacher_name)
    student = build_student(settings, teacher, seed=0)
    save_initial_student(student, tokenizer, output)
    indices = _indices(settings, teacher)
    _show_student(student, teacher, indices, {}, output, console)


def _refuse_existing(folder: Path, force: bool) -> None:
    if folder.exists() and any(folder.iterdir()) and not force:
        raise RunFolderError(f"{folder}: exists and is not empty", "Replace it with --force.")


def _parse_layers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--layers {text}: not a list of layer numbers such as 0,2,4") from None


def _copied_from(experiment: Experiment, teacher: MaskedLM | None) -> MaskedLM | None:
    student = experiment.student
    if isinstance(student, CopiedStudent) and student.source is not None:
        return load_masked_lm(student.source)
    return teacher


def _copied_layers(experiment: Experiment, source: MaskedLM | None) -> list[int] | None:
    if isinstance(experiment.student, CopiedStudent) and source is not None:
        return _indices(experiment.student, source)
    return None


def _indices(settings: CopiedStudent, source: MaskedLM) -> list[int]:
    depth = source.config.num_hidden_layers
    default = len(settings.layers) if isinstance(settings.layers, list) else max(1, depth // 2)
    return layer_map(depth, settings.num_layers or default, settings.layers)


def _quick_quality(
    models: dict[str, MaskedLM], experiment: Experiment, store: TokenStore, tokenizer: Any
) -> dict[str, HeldOutScores]:
    accelerator = Accelerator()
    masker = held_out_masker(store, tokenizer, experiment.masking.mlm_probability)
    scores = {}
    for name, model in models.items():
        use_packed_attention(model.to(accelerator.device))
        batches = held_out_batches(
            store.held_out,
            masker,
            experiment.validation.num_sequences,
            experiment.train.tokens_per_micro_batch,
        )
        scores[name] = held_out_scores(model, None, batches, accelerator)
    return scores


def _show_student(
    student: MaskedLM,
    teacher: MaskedLM | None,
    indices: list[int] | None,
    quality: dict[str, HeldOutScores],
    folder: Path,
    console: Console,
) -> None:
    if indices is not None:
        console.table("layers", ["student", "<- teacher"], layer_table(indices))
    models = {"teacher": teacher, "student": student}
    rows = []
    for name, model in models.items():
        if model is None:
            continue
        row = [name, f"{num_parameters(model):,}", f"{size_mib(model):.1f}"]
        if quality:
            scores = quality[name]
            row += [number(scores.loss), percent(scores.accuracy)]
        rows.append(row)
    columns = ["model", "parameters", "MiB"] + (["held-out loss", "accuracy"] if quality else [])
    console.table("student at start", columns, rows)
    smaller = None
    if teacher is not None:
        smaller = 1 - num_parameters(student) / num_parameters(teacher)
        console.say(f"{percent(smaller)} fewer parameters than the teacher")
    console.say(f"saved and checked: {folder}")
    console.result(
        {
            "student": str(folder),
            "layers": indices,
            "parameters": {n: num_parameters(m) for n, m in models.items() if m is not None},
            "size_mib": {n: size_mib(m) for n, m in models.items() if m is not None},
            "smaller": smaller,
            "held_out": {name: asdict(scores) for name, scores in quality.items()},
        }
    )


def train_and_show(experiment: Experiment, *, resume: bool, force: bool, console: Console) -> None:
    """`distilcli train`."""
    accelerator = make_accelerator(experiment)
    folder = RunFolder(experiment.run_folder)
    folder.check(experiment, resume=resume, force=force)
    parts = _assemble(experiment, folder, accelerator, force, console)
    console.note(
        f"{experiment.name}: student from {student_description(experiment)}, "
        f"{len(parts.store.train):,} sequences, {accelerator.num_processes} process(es), "
        f"{accelerator.device}"
    )
    with console.bar("train", "steps") as bar:
        log = TrainingLog(console, bar)
        events = Events(console.note, console.warn, log.metrics)
        result = train(experiment, parts, accelerator, resume=resume, events=events)
    _show_training(result, console)


def _assemble(
    experiment: Experiment,
    folder: RunFolder,
    accelerator: Accelerator,
    force: bool,
    console: Console,
) -> Parts:
    """Load the parts; the main process makes what is missing before the others look."""
    tokenizer = experiment_tokenizer(experiment)
    dtype = torch.float32
    if experiment.teacher is not None:
        dtype = resolve_precision(experiment.teacher.precision, accelerator.device)
    teacher = load_teacher(experiment, dtype)
    accelerator.wait_for_everyone()  # all have looked at the folder before anyone writes to it
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            with console.bar("prepare", "tokens") as bar:
                ensure_store(experiment, tokenizer, os.cpu_count() or 1, _progress_to(bar))
            if not folder.has_run or force:
                folder.begin(experiment, force=force)
            if not folder.initial_student.exists():
                student = make_student(experiment, teacher)
                save_initial_student(student, tokenizer, folder.initial_student)
        store = open_store(experiment, tokenizer)
        student = load_initial_student(experiment, folder.initial_student)
        check_student(experiment, student, teacher)
    return Parts(tokenizer, store, teacher, student)


def _show_training(result: TrainResult, console: Console) -> None:
    if result.already_finished:
        console.note("this run is finished; nothing to do")
    speed = result.tokens / result.seconds if result.seconds else 0.0
    console.say(
        f"{result.steps} steps, {result.tokens:,} tokens in {duration(result.seconds)} "
        f"({speed:,.0f} tokens/s)"
    )
    if result.held_out_loss is not None:
        console.say(
            f"held-out loss {result.held_out_loss:.4f} after step {result.student_step}, "
            f"the best one, which is the student"
        )
    console.say(f"student: {result.student}")
    console.result(asdict(result))


def dry_run_and_show(experiment: Experiment, console: Console) -> None:
    """`distilcli train --dry-run`."""
    accelerator = make_accelerator(experiment)
    folder = RunFolder(experiment.run_folder)
    tokenizer = experiment_tokenizer(experiment)
    dtype = torch.float32
    if experiment.teacher is not None:
        dtype = resolve_precision(experiment.teacher.precision, accelerator.device)
    teacher = load_teacher(experiment, dtype)
    store = open_store(experiment, tokenizer)
    student = make_student(experiment, teacher)
    report = preflight(experiment, Parts(tokenizer, store, teacher, student), accelerator)
    _show_preflight(report, folder, console)


def _show_preflight(report: Preflight, folder: RunFolder, console: Console) -> None:
    rows = [
        ["processes x micro-batches", f"{report.num_processes} x {report.micro_batches}"],
        ["steps", f"{report.total_steps:,} ({report.steps_per_epoch:,} an epoch)"],
        ["tokens a second", f"{report.tokens_per_second:,.0f}"],
        ["time to finish", duration(report.seconds_to_finish)],
        ["peak memory, GiB", f"{report.peak_memory_gib:.2f}"],
        ["a checkpoint, MiB", f"{report.checkpoint_mib:.0f}"],
        ["loss of the two steps", " ".join(f"{loss:.4f}" for loss in report.losses)],
        ["unigram held-out loss", number(report.unigram_loss)],
        ["teacher's held-out loss", number(report.teacher_loss)],
    ]
    console.table(f"dry run of {folder.root}: nothing was written", ["what", "figure"], rows)
    if folder.has_run:
        console.note(f"{folder.root} exists: train will ask for --resume or --force")
    console.result(asdict(report))


def evaluate_and_show(
    names: list[str],
    config: Path | None,
    overrides: list[str],
    output: Path | None,
    console: Console,
) -> None:
    """`distilcli eval`."""
    experiment = _experiment_of(names, config, overrides)
    tokenizer = experiment_tokenizer(experiment)
    store = open_store(experiment, tokenizer)
    models = _models_to_evaluate(names, experiment)
    teacher_name = "teacher" if "teacher" in models else None
    for name, model in models.items():
        check_vocabulary(model, store, name)
    rows = evaluate(models, teacher_name, experiment, store, tokenizer, console.note)
    target = (output or experiment.run_folder) / "results.json"
    record = {"models": {row.name: row.record() for row in rows}, "results": str(target)}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, json.dumps(record, indent=1) + "\n")
    _show_evaluations(rows, console)
    console.say(f"written: {target}")
    console.result(record)


def _experiment_of(names: list[str], config: Path | None, overrides: list[str]) -> Experiment:
    if config is not None:
        return load(config, overrides)
    for name in names:
        own = RunFolder(Path(name)).experiment
        if own.exists():
            return load(own, overrides)
    raise ConfigError(
        "no experiment to evaluate with", "Give --config FILE or a run folder, such as runs/NAME."
    )


def _models_to_evaluate(names: list[str], experiment: Experiment) -> dict[str, MaskedLM]:
    """The teacher, then for each run its student at start and trained, or the named models."""
    models: dict[str, MaskedLM] = {}
    teacher = load_teacher(experiment)
    if teacher is not None:
        models["teacher"] = teacher
    for name in names or [str(experiment.run_folder)]:
        folder = RunFolder(Path(name))
        if not folder.experiment.exists():
            models[name] = load_masked_lm(name, role="student")
            continue
        for label, path in (("at start", folder.initial_student), ("trained", folder.student)):
            if path.exists():
                models[f"{folder.root.name} {label}"] = load_masked_lm(str(path), role="student")
    if len(models) == (teacher is not None):
        raise ModelError(
            f"{experiment.run_folder}: no student to evaluate", "Run distilcli train first."
        )
    return models


def _show_evaluations(rows: list[Evaluation], console: Console) -> None:
    columns = ["model", "accuracy", "retained", "loss", "perplexity", "agreement", "KL"]
    columns += ["parameters", "MiB", "ms", "seq/s"]
    table = []
    for row in rows:
        scores, speed = row.scores, row.speed
        table.append(
            [
                row.name,
                percent(scores.accuracy),
                percent(row.retained),
                number(scores.loss),
                number(scores.perplexity, 2),
                percent(scores.agreement),
                number(scores.kl),
                f"{row.parameters:,}",
                f"{row.size_mib:.1f}",
                number(speed.latency_ms if speed else None, 1),
                number(speed.sequences_per_second if speed else None, 1),
            ]
        )
    first = rows[0]
    console.table(f"{first.scores.num_masked:,} masked held-out tokens", columns, table)
    if first.speed is not None:
        console.say(
            f"ms: one sequence of {first.speed.length} tokens; seq/s: batches of "
            f"{first.speed.batch_size}; CPU, {first.speed.threads} threads, medians"
        )
