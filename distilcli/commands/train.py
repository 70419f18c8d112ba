"""`distilcli train`: what is missing is made, then the student is trained; or a dry run."""

import os
from contextlib import ExitStack
from dataclasses import asdict

from accelerate import Accelerator

from distilcli.assembly import (
    Parts,
    assemble_unsaved,
    check_student,
    check_vocabulary,
    ensure_store,
    experiment_tokenizer,
    keep_or_save_initial_student,
    load_initial_student,
    load_teacher,
    make_student,
    open_store,
    student_description,
    teacher_dtype,
)
from distilcli.commands.prepare import show_progress, tell_of_task
from distilcli.config import BaseExperiment, Experiment
from distilcli.console import Console, TrainingLog, duration, number
from distilcli.masked_lm import MaskedLMObjective
from distilcli.objective import Objective
from distilcli.preflight import Preflight, preflight
from distilcli.processes import main_process_first, make_accelerator
from distilcli.profiling import Profile, profile_steps
from distilcli.run_folder import RunFolder
from distilcli.task_config import TaskExperiment
from distilcli.tasks.objective import TaskObjective, assemble_task
from distilcli.training import Events, TrainResult, train

# Seconds for a run whose launcher is gone to take its last step; a second run that was started by
# mistake should not wait longer than that.
_LONGEST_WAIT = 120.0


def run(
    experiment: Experiment | TaskExperiment, *, resume: bool, force: bool, console: Console
) -> None:
    """Train the experiment's student."""
    accelerator = make_accelerator(experiment)
    folder = RunFolder(experiment.run_folder)
    folder.check(experiment, resume=resume, force=force)
    with ExitStack() as held:  # the run folder, from the moment that something is written there
        objective = _objective(experiment, folder, accelerator, force, console, held)
        console.note(
            f"{experiment.name}: student from {student_description(experiment.student)}, "
            f"{len(objective.lengths):,} sequences, {accelerator.num_processes} process(es), "
            f"{accelerator.device}"
        )
        with console.bar("train") as bar:
            log = TrainingLog(console, bar)
            events = Events(console.note, console.warn, log.metrics)
            result = train(experiment, objective, accelerator, resume=resume, events=events)
    _show(result, console)


def dry_run(experiment: Experiment | TaskExperiment, console: Console) -> None:
    """Check everything and take two steps, without writing anything."""
    accelerator = make_accelerator(experiment)
    report = preflight(
        experiment, _unsaved_objective(experiment, accelerator, console), accelerator
    )
    accelerator.end_training()
    _show_preflight(report, experiment, console)


def profile(experiment: Experiment | TaskExperiment, num_steps: int, console: Console) -> None:
    """Take steps under the profiler; only their trace is written."""
    accelerator = make_accelerator(experiment)
    objective = _unsaved_objective(experiment, accelerator, console)
    trace = RunFolder(experiment.run_folder).trace
    report = profile_steps(experiment, objective, accelerator, num_steps, trace)
    accelerator.end_training()
    _show_profile(report, console)


def _unsaved_objective(
    experiment: Experiment | TaskExperiment, accelerator: Accelerator, console: Console
) -> Objective:
    """Samples and losses, for which nothing is written: a teacher's outputs are not cached."""
    if isinstance(experiment, Experiment):
        parts = assemble_unsaved(experiment, accelerator.device)
        return MaskedLMObjective(experiment, parts, accelerator.device)
    with main_process_first(accelerator):
        task_parts = assemble_task(experiment, accelerator.device)
    tell_of_task(task_parts.task, console)
    return TaskObjective(experiment, task_parts, accelerator, cache=False)


def _objective(
    experiment: Experiment | TaskExperiment,
    folder: RunFolder,
    accelerator: Accelerator,
    force: bool,
    console: Console,
    held: ExitStack,
) -> Objective:
    """Samples and losses; the main process makes what is missing before the others look."""
    if isinstance(experiment, Experiment):
        parts = _assemble(experiment, folder, accelerator, force, console, held)
        return MaskedLMObjective(experiment, parts, accelerator.device)
    with main_process_first(accelerator):
        task_parts = assemble_task(experiment, accelerator.device)
    tell_of_task(task_parts.task, console)
    if accelerator.is_main_process:
        _begin(experiment, folder, force, console, held)
    return TaskObjective(experiment, task_parts, accelerator, console.note)


def _assemble(
    experiment: Experiment,
    folder: RunFolder,
    accelerator: Accelerator,
    force: bool,
    console: Console,
    held: ExitStack,
) -> Parts:
    """Load the parts; the main process makes what is missing before the others look."""
    tokenizer = experiment_tokenizer(experiment)
    accelerator.wait_for_everyone()  # all have checked the folder before anyone writes to it
    with main_process_first(accelerator):
        if accelerator.is_main_process:
            _make_what_is_missing(experiment, folder, force, console, held)
        store = open_store(experiment, tokenizer)
        student = load_initial_student(experiment, folder.initial_student)
    teacher = load_teacher(experiment, teacher_dtype(experiment, accelerator.device))
    check_student(experiment, student, teacher, store)
    return Parts(tokenizer, store, teacher, student)


def _make_what_is_missing(
    experiment: Experiment, folder: RunFolder, force: bool, console: Console, held: ExitStack
) -> None:
    tokenizer = experiment_tokenizer(experiment)
    # Models first: a mistake there must not cost the hours that preparing a corpus may take.
    student = None
    if force or not folder.has_run or not folder.initial_student.exists():
        student = make_student(experiment, load_teacher(experiment))
    with console.bar("prepare") as bar:
        store = ensure_store(experiment, tokenizer, os.cpu_count() or 1, show_progress(bar))
    # All checks before anything of the run is written: what fails them must not lie there.
    if student is not None:
        check_vocabulary(student, store, "the student")
    _begin(experiment, folder, force, console, held)
    if student is not None:
        keep_or_save_initial_student(student, tokenizer, folder.initial_student)


def _begin(
    experiment: BaseExperiment, folder: RunFolder, force: bool, console: Console, held: ExitStack
) -> None:
    """Take the run folder for this run, and write down what it runs."""
    patience = min(experiment.train.timeout_seconds, _LONGEST_WAIT)
    held.enter_context(folder.alone(patience, console.note))
    if force or not folder.has_run:
        folder.begin(experiment, force=force)


def _show(result: TrainResult, console: Console) -> None:
    if result.already_finished:
        console.note("this run is finished; there is nothing to do")
    speed = result.tokens / result.seconds if result.seconds else 0.0
    console.say(
        f"{result.steps:,} steps, {result.tokens:,} tokens in {duration(result.seconds)} "
        f"({speed:,.0f} tokens/s)"
    )
    if result.held_out:
        scores = ", ".join(
            f"{key.removeprefix('held_out/')} {value:.4f}" for key, value in result.held_out.items()
        )
        console.say(f"held out, after step {result.student_step}: {scores}")
    console.say(f"student: {result.student}")
    console.result(asdict(result))


def _show_profile(report: Profile, console: Console) -> None:
    rows = [[name, f"{share:.1%}", f"{calls:,.0f}"] for name, share, calls in report.operators]
    title = f"{report.steps} steps of {report.seconds_per_step:.3f} s, the costliest operators"
    console.table(title, ["operator", "share of the time", "calls a step"], rows)
    console.say(f"trace: {report.trace}")
    console.result(asdict(report))


def _show_preflight(report: Preflight, experiment: BaseExperiment, console: Console) -> None:
    rows = [
        ["processes x micro-batches", f"{report.num_processes} x {report.micro_batches}"],
        ["steps", report.batches],
        ["tokens a second", f"{report.tokens_per_second:,.0f}"],
        ["time to finish", duration(report.seconds_to_finish)],
        ["peak memory, GiB", f"{report.peak_memory_gib:.2f}"],
        ["one checkpoint, MiB", f"{report.checkpoint_mib:.0f}"],
        ["disk needed, free, GiB", f"{report.disk_needed_gib:.2f}, {report.disk_free_gib:.2f}"],
        ["loss of the two steps", " ".join(f"{loss:.4f}" for loss in report.losses)],
    ]
    rows += [[f"held-out {key.replace('_', ' ')}", number(x)] for key, x in report.teacher.items()]
    folder = RunFolder(experiment.run_folder)
    console.table(f"dry run of {folder.root}: nothing was written", ["what", "figure"], rows)
    if folder.has_run:
        console.note(f"{folder.root} exists: train will ask for --resume or --force")
    record = asdict(report)
    console.result(record | record.pop("teacher"))
