"""`distilcli train`: makes what is missing, then trains the student; or a dry run."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from distilcli.cli.cards import write_student_card
from distilcli.cli.console import Console
from distilcli.cli.push import Push
from distilcli.cli.training_log import NOT_SAID, TrainingLog
from distilcli.config.experiment import BaseExperiment
from distilcli.config.kinds import KINDS
from distilcli.distillation.identity import Identity, identity_of_model
from distilcli.distillation.objective import Objective
from distilcli.distillation.run_kinds import kind_of
from distilcli.evaluation.result import duration, number
from distilcli.training.folder_checks import check_places
from distilcli.training.loop import Events, train
from distilcli.training.preflight import Preflight, preflight
from distilcli.training.processes import main_process_first, make_accelerator, of_main_process
from distilcli.training.profiling import Profile, profile_steps
from distilcli.training.resuming import check_identity
from distilcli.training.run_folder import RunFolder
from distilcli.training.steps import note_of_idle
from distilcli.training.train_result import TrainResult

# Seconds for a run whose launcher is gone to take its last step; a second run that was started by
# mistake should not wait longer than that.
LONGEST_WAIT = 120.0


@dataclass(frozen=True)
class AmongOthers:
    """What a run that is one of several is told of the others.

    Attributes:
        models: what it goes on from, by what that is: a part of its identity.
        tracked_as: the project that trackers report to; None: the experiment's name.
        goes_on: whether the processes go on to another run.
        on_enter: called by the main process before anything is loaded or made.
        on_begin: called by the main process before anything of this run is written or removed.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    tracked_as: str | None = None
    goes_on: bool = False
    on_enter: Callable[[], None] = lambda: None
    on_begin: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Start:
    """A run about to start or to go on, and the folder that it has to itself.

    Attributes:
        experiment: what is run.
        folder: of this run.
        among: what it is told of the runs that it is one of.
        resume: whether it may go on.
        force: whether it may remove what ran there.
        console: told what is waited for.
        held: gives the folder free when the run ends, however it ends.
    """

    experiment: BaseExperiment
    folder: RunFolder
    among: AmongOthers
    resume: bool
    force: bool
    console: Console
    held: ExitStack

    @property
    def initial_student(self) -> Path:
        """Where the student at start lies."""
        return self.folder.initial_student

    @property
    def keeps_student(self) -> bool:
        """Whether the run goes on with an initial student that lies there."""
        return not self.force and self.folder.has_run and self.initial_student.exists()

    def take(self) -> None:
        """Keep other runs out of the folder, and look at it again: one may have begun meanwhile.

        Only a run that goes on, or replaces another, waits for a process that is in there, which
        may be what a killed launcher left behind.

        Raises:
            RunFolderError: another process is in there, or see `RunFolder.check`.
        """
        patience = 0.0
        if self.resume or self.force:
            patience = min(self.experiment.train.timeout_seconds, LONGEST_WAIT)
        self.held.enter_context(self.folder.locked(patience, self.console.note))
        self.folder.check(self.experiment, resume=self.resume, force=self.force)

    def begin(self) -> None:
        """Write down what is run, unless it goes on."""
        self.among.on_begin()
        if self.force or not self.folder.has_run:
            self.folder.begin(self.experiment, force=self.force)


def run(
    experiment: BaseExperiment,
    *,
    resume: bool,
    force: bool,
    console: Console,
    push: Push | None = None,
    at_end: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Train the experiment's student, and send it to the hub if it is asked for.

    Args:
        experiment: what is run.
        resume: whether it may go on.
        force: whether it may remove what ran there.
        console: told what goes on.
        push: where the student is sent; None: nowhere.
        at_end: called when the student is there; adds to the result for programs.
    """
    folder = RunFolder(experiment.run_folder)
    among = AmongOthers()
    if push is not None:
        among = AmongOthers(on_enter=partial(push.check, experiment))
    result = take(experiment, folder, among, resume=resume, force=force, console=console)
    show(result, console)
    record = asdict(result) | at_end()
    if push is not None:
        record = push.send(Path(result.student), record)
    console.result(record)


def take(
    experiment: BaseExperiment,
    folder: RunFolder,
    among: AmongOthers,
    *,
    resume: bool,
    force: bool,
    console: Console,
) -> TrainResult:
    """Take one run, alone or among others."""
    check_places(experiment)
    accelerator = make_accelerator(experiment)
    folder.check(experiment, resume=resume, force=force)
    of_main_process(accelerator, among.on_enter)
    with ExitStack() as held:  # the run folder, from the moment that something is written there
        start = Start(experiment, folder, among, resume, force, console, held)
        objective, identity = _objective(start, accelerator)
        console.note(
            f"{experiment.name}: student from {experiment.student.in_words}, "
            f"{_sequences(len(objective.lengths), objective.num_unlabelled)}, "
            f"{accelerator.num_processes} process(es), {accelerator.device}"
        )
        with console.bar("train") as bar:
            log = TrainingLog(console, bar)
            events = Events(console.note, console.warn, log.metrics, _card_writer(start))
            result = train(
                experiment,
                objective,
                accelerator,
                resume=resume,
                events=events,
                identity=identity,
                tracked_as=among.tracked_as,
                goes_on=among.goes_on,
            )
        return result


def _card_writer(start: Start) -> Callable[[TrainResult], None]:
    """Writes the card of the student that a run came to."""

    def write(result: TrainResult) -> None:
        experiment = start.experiment
        if isinstance(experiment, KINDS):
            write_student_card(
                start.folder,
                experiment,
                result.held_out,
                start.console,
                had_ended=result.already_finished,
            )

    return write


def _sequences(count: int, unlabelled: int) -> str:
    """How many sequences an epoch has, and how many of them only a teacher labels."""
    return f"{count:,} sequences" + (f" ({unlabelled:,} without labels)" if unlabelled else "")


def dry_run(experiment: BaseExperiment, console: Console) -> None:
    """Check everything and take two steps, without writing anything."""
    check_places(experiment)
    folder = RunFolder(experiment.run_folder)
    if not folder.has_run:
        folder.check(experiment, resume=False, force=False)
    accelerator = make_accelerator(experiment)
    objective = unsaved_objective(experiment, accelerator, console)
    plan = objective.step_plan(experiment.train, experiment.seed)
    if (idle := note_of_idle(plan, accelerator.num_processes)) is not None:
        console.warn(idle)
    report = preflight(experiment, objective, accelerator)
    accelerator.end_training()
    console.result(show_preflight(report, experiment, console))


def profile(experiment: BaseExperiment, num_steps: int, console: Console) -> None:
    """Take steps under the profiler; only their trace is written."""
    check_places(experiment)
    accelerator = make_accelerator(experiment)
    objective = unsaved_objective(experiment, accelerator, console)
    trace = RunFolder(experiment.run_folder).trace
    report = profile_steps(experiment, objective, accelerator, num_steps, trace)
    accelerator.end_training()
    _show_profile(report, console)


def unsaved_objective(
    experiment: BaseExperiment, accelerator: Accelerator, console: Console
) -> Objective:
    """Samples and losses, for which nothing is written: a teacher's outputs are not cached."""
    kind = kind_of(experiment)
    with main_process_first(accelerator):
        parts = kind.assemble_unsaved(accelerator.device, by_content=accelerator.is_main_process)
    kind.warn_about_data(parts, console)
    return kind.objective(parts, accelerator, console.note, may_write=False)


def _objective(start: Start, accelerator: Accelerator) -> tuple[Objective, Identity]:
    """Samples and losses, and what they depend on, which the main process alone finds out.

    It makes what is missing, before the others look.
    """
    folder, console = start.folder, start.console
    kind = kind_of(start.experiment)
    accelerator.wait_for_everyone()  # all have checked the folder before anyone writes to it
    with main_process_first(accelerator):
        place = start if accelerator.is_main_process else None
        parts = kind.assemble(accelerator.device, folder.initial_student, place, console)
    kind.warn_about_data(parts, console)

    def checked_identity() -> Identity:
        found = kind.identity(parts, folder.initial_student)
        for what, model in start.among.models.items():
            found |= identity_of_model(what, model)
        if start.resume and folder.has_run:  # before the teacher runs for hours over other inputs
            check_identity(folder.read_identity(), found, folder.root)
        return found

    identity = of_main_process(accelerator, checked_identity)
    objective = kind.objective(parts, accelerator, console.note)
    return objective, identity | of_main_process(accelerator, objective.identity)


def show(result: TrainResult, console: Console) -> None:
    """What a run came to, for people."""
    if result.already_finished:
        console.note("this run is finished; there is nothing to do")
    speed = result.tokens / result.seconds if result.seconds else 0.0
    console.say(
        f"{result.steps:,} steps, {result.tokens:,} tokens in {duration(result.seconds)} "
        f"({speed:,.0f} tokens/s)"
    )
    if result.held_out:
        scores = ", ".join(
            f"{key.removeprefix('held_out/')} {value:.4f}"
            for key, value in result.held_out.items()
            if key not in NOT_SAID
        )
        console.say(f"held out, after step {result.student_step}: {scores}")
    console.say(f"student: {result.student}")


def _show_profile(report: Profile, console: Console) -> None:
    rows = [[name, f"{share:.1%}", f"{calls:,.0f}"] for name, share, calls in report.operators]
    title = f"{report.steps} steps of {report.seconds_per_step:.3f} s, the costliest operators"
    console.table(title, ["operator", "share of the time", "calls per step"], rows)
    if report.idle_share is not None:
        rows = [[name, f"{share:.1%}", f"{calls:,.0f}"] for name, share, calls in report.kernels]
        title = f"the costliest kernels; the GPU is idle for {report.idle_share:.1%} of the time"
        console.table(title, ["kernel", "share of the kernels' time", "calls per step"], rows)
    console.say(f"trace: {report.trace}")
    console.result(asdict(report))


def show_preflight(
    report: Preflight, experiment: BaseExperiment, console: Console
) -> dict[str, Any]:
    """What a dry run found, for people; the same for programs."""
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
    if report.unlabelled_per_epoch:
        sequences = _sequences(report.samples_per_epoch, report.unlabelled_per_epoch)
        rows.insert(2, ["an epoch", sequences])
    rows += [[f"held-out {key.replace('_', ' ')}", number(x)] for key, x in report.teacher.items()]
    folder = RunFolder(experiment.run_folder)
    console.table(f"dry run of {folder.root}: nothing was written", ["what", "figure"], rows)
    if folder.has_run:
        console.note(f"{folder.root} exists: train will ask for --resume or --force")
    record = asdict(report)
    teacher: dict[str, Any] = record.pop("teacher")
    return record | teacher
