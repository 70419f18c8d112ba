"""`distilcli prepare` and `train` of an experiment with several stages: each is run as one run.

All stages are trained in one process (or one for each rank), whose group lasts to the end of the
last. What is finished is not looked at again, but for its settings, and for the student that the
next stage starts from: that is a part of the next stage's identity.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distilcli.cli import train as one
from distilcli.cli.cards import write_student_card
from distilcli.cli.console import Console
from distilcli.cli.push import Push
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.kinds import AnyExperiment
from distilcli.config.stages import Stage, StagedExperiment
from distilcli.distillation.run_kinds import kind_of
from distilcli.errors import DistilError, Interrupted
from distilcli.evaluation.result import duration
from distilcli.models.loading import read_config
from distilcli.models.saving import save_model
from distilcli.training.folder_checks import check_places
from distilcli.training.preflight import preflight
from distilcli.training.processes import make_accelerator, of_main_process
from distilcli.training.staged_run import StagedFolder
from distilcli.training.train_result import TrainResult


def prepare(staged: StagedExperiment, num_proc: int, console: Console) -> None:
    """Prepare the data of every stage, or say that it is there, and show what it holds."""
    records: list[dict[str, Any]] = []
    for number, stage in enumerate(staged.stages):
        with _naming(staged, number, console):
            experiment = _with_student(stage.experiment, _tokens_of(staged, number))
            check_places(experiment)
            if _reads_unmade_tokens(staged, number):
                console.note("its text is prepared when its turn comes: its tokens are chosen then")
                continue
            result = kind_of(experiment).prepare(num_proc, console)
        console.show_to_people(result)
        records.append({"stage": stage.name, **result.record})
    console.result({"stages": records})


def run(
    staged: StagedExperiment,
    *,
    resume: bool,
    force: bool,
    console: Console,
    push: Push | None = None,
    at_end: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Train all stages, or those that are not finished; see `train.run`."""
    for stage in staged.stages:
        check_places(stage.experiment)
    accelerator = make_accelerator(staged.stages[0].experiment)
    folder = StagedFolder(staged)
    folder.check(resume=resume, force=force)
    accelerator.wait_for_everyone()  # all have checked the folder before anyone writes to it
    if push is not None:
        of_main_process(accelerator, functools.partial(push.check, staged))
    with ExitStack() as held:
        finished = of_main_process(
            accelerator, lambda: _enter(folder, held, resume=resume, force=force, console=console)
        )
        begin = functools.partial(folder.begin, force=force)
        results = [
            _train(
                folder,
                number,
                begin if number == min(finished, len(staged.stages) - 1) else _nothing,
                is_finished=number < finished,
                resume=resume,
                force=force and number == 0,
                console=console,
            )
            for number in range(len(staged.stages))
        ]
        if accelerator.is_main_process:
            folder.publish_student()
            last = results[-1]
            held_out = last.held_out if last is not None else {}
            write_student_card(folder.run, staged, held_out, console)
    record = _show(folder, results, console) | at_end()
    console.result(record if push is None else push.send(folder.run.student, record))


def dry_run(staged: StagedExperiment, console: Console) -> None:
    """Check every stage and take two steps of it, without writing anything.

    What a stage would start from, where that is not there yet, is what the stage before has after
    its two steps.
    """
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="distilcli-") as scratch:
        student: Path | None = None
        for number, stage in enumerate(staged.stages):
            experiment = _with_student(stage.experiment, student)
            with _naming(staged, number, console):
                check_places(stage.experiment)
                accelerator = make_accelerator(experiment)
                if _reads_unmade_tokens(staged, number):
                    console.note("not tried: its text is prepared when its turn comes")
                    continue
                objective = one.unsaved_objective(experiment, accelerator, console)
                report = preflight(experiment, objective, accelerator)
                # Each process its own: those of other hosts do not see this folder.
                student = Path(scratch) / str(number)
                save_model(objective.student, objective.tokenizer, student)
            record = one.show_preflight(report, stage.experiment, console)
            records.append({"stage": stage.name, **record})
            del objective
        accelerator.end_training()
    seconds = sum(record["seconds_to_finish"] for record in records)
    console.say(f"all stages: {duration(seconds)}")
    console.result({"stages": records, "seconds_to_finish": seconds})


def profile(staged: StagedExperiment, num_steps: int, console: Console) -> None:
    """Take steps of the first stage under the profiler."""
    console.note(f"profiling the first stage, {staged.stages[0].name}")
    one.profile(staged.stages[0].experiment, num_steps, console)


@contextmanager
def _naming(staged: StagedExperiment, number: int, console: Console) -> Iterator[None]:
    """Say which stage it is, also in what goes wrong there."""
    name = staged.stages[number].name
    console.note(f"stage {number + 1} of {len(staged.stages)}: {name}")
    try:
        yield
    except Interrupted:
        raise
    except DistilError as error:
        error.message = f"stage {name}: {error.message}"
        raise


def _enter(
    folder: StagedFolder, held: ExitStack, *, resume: bool, force: bool, console: Console
) -> int:
    """Take the folder of the run; how many stages are finished, as far as they stay."""
    patience = 0.0
    if resume or force:
        timeout = folder.staged.stages[0].experiment.train.timeout_seconds
        patience = min(timeout, one.LONGEST_WAIT)
    held.enter_context(folder.locked(patience, console.note))
    folder.check(resume=resume, force=force)
    finished = 0 if force else folder.num_finished()
    _look_ahead(folder.staged, finished)
    return finished


def _look_ahead(staged: StagedExperiment, number: int) -> None:
    """Look now for the teachers of this stage and all later ones, whose turn may come in hours.

    Raises:
        ModelError: one is not there, or is of a kind that cannot be used.
    """
    own = staged.run_folder.resolve()
    for stage in staged.stages[number:]:
        teacher = stage.experiment.teacher
        for key, one_teacher in teacher.by_key.items() if teacher else ():
            # A teacher may be what a stage before trains.
            if not Path(one_teacher.model).resolve().is_relative_to(own):
                role = f"stage {stage.name}: {key}.model"
                read_config(one_teacher.model, one_teacher.revision, role)


def _nothing() -> None:
    """What is done for the whole run when a stage begins that is not the first to be trained."""


def _train(
    folder: StagedFolder,
    number: int,
    on_begin: Callable[[], None],
    *,
    is_finished: bool,
    resume: bool,
    force: bool,
    console: Console,
) -> TrainResult | None:
    """One stage; None where it is finished and another one follows."""
    staged, stage = folder.staged, folder.staged.stages[number]
    goes_on = number < len(staged.stages) - 1
    with _naming(staged, number, console):
        if is_finished and goes_on:
            console.note(f"finished: {stage.student}")
            return None
        before: dict[str, str] = {}
        if number:
            before = {f"student of stage {number}": str(staged.stages[number - 1].student)}
        tracked_as = f"{staged.name}-{number + 1}-{stage.name}"
        among = one.AmongOthers(before, tracked_as, goes_on, on_begin)
        result = one.take(
            stage.experiment,
            folder.stages[number],
            among,
            resume=resume,
            force=force,
            console=console,
        )
    one.show(result, console)
    return result


def _show(
    folder: StagedFolder, results: list[TrainResult | None], console: Console
) -> dict[str, Any]:
    """What the whole run came to, for people; the same for programs."""
    staged, last = folder.staged, results[-1]
    assert last is not None
    student = str(folder.run.student)
    console.say(f"student of the last stage: {student}")
    stages = [
        {"stage": stage.name} | (asdict(result) if result else _finished(stage))
        for stage, result in zip(staged.stages, results, strict=True)
    ]
    whole = replace(last, run_folder=str(folder.run.root), student=student)
    return {**asdict(whole), "stages": stages}


def _finished(stage: Stage) -> dict[str, Any]:
    return {
        "run_folder": str(stage.experiment.run_folder),
        "student": str(stage.student),
        "already_finished": True,
    }


def _with_student(experiment: AnyExperiment, student: str | Path | None) -> AnyExperiment:
    """The experiment of a stage with another model to start from, unless its own is there."""
    own = experiment.student.named_model
    if student is None or own is None or Path(own).exists():
        return experiment
    section = experiment.student.model_copy(update={"model": str(student)})
    return experiment.model_copy(update={"student": section})


def _tokens_of(staged: StagedExperiment, number: int) -> str | None:
    """A model with the tokenizer that a student has which is not trained yet; None: its own."""
    return staged.stages[0].experiment.tokenizer_source if number else None


def _reads_unmade_tokens(staged: StagedExperiment, number: int) -> bool:
    """Whether a stage reads tokens of its own that are chosen when the first stage begins."""
    experiment, first = staged.stages[number].experiment, staged.stages[0].experiment
    is_chosen = number > 0 and first.student.kept_vocabulary is not None
    is_text = isinstance(experiment, MaskedLMExperiment)
    return is_chosen and is_text and not Path(staged.stages[number - 1].student).exists()
