"""What stands beside the scores of a suite: calibration, and predictions that flip.

Every finished student is measured once on the dev examples, beside the teacher of its task and
seed, also a student that was fine-tuned without one. The figures join the scores of its run.
"""

from collections.abc import Callable

import numpy as np
from accelerate import Accelerator

from distilcli.config.experiment import TaskExperiment
from distilcli.config.suite import DISTILLED, TEACHER, Suite
from distilcli.config.tasks import GlueTask, RegressionTask, Task
from distilcli.distillation.task_parts import open_task_of
from distilcli.errors import DistilError
from distilcli.evaluation.calibration import reliability_of
from distilcli.evaluation.dev_examples import measured_outputs
from distilcli.models.padded_teacher import TaskModel
from distilcli.models.task_models import load_finetuned, load_finetuned_teacher
from distilcli.suites.plan import SuiteRun
from distilcli.suites.results import Results
from distilcli.suites.runs import write_scores
from distilcli.tasks import glue
from distilcli.tasks.decisions import Decisions
from distilcli.tasks.labels import class_key
from distilcli.tasks.task import OpenTask
from distilcli.training.processes import single_accelerator
from distilcli.training.run_folder import RunFolder


def add_reliability(
    suite: Suite,
    runs: list[SuiteRun],
    results: Results,
    on_note: Callable[[str], None],
    on_warning: Callable[[str], None],
) -> None:
    """Add what is missing to the scores, in `results` and beside the students.

    Args:
        suite: which was run.
        runs: all of it.
        results: scores of each run that is done.
        on_note: told what is measured.
        on_warning: told of models that cannot be measured any more, such as removed ones.
    """
    for name, task in suite.tasks.items():
        done = [run for run in runs if run.task == name and _key(run) in results]
        lacking = [run for run in done if "flips" not in results[_key(run)]]
        if not lacking or not _has_predictions(task.task):
            continue
        on_note(f"{name}: calibration and flips of {len(lacking)} models")
        measure = _Measure(done, single_accelerator())
        for run in lacking:
            try:
                scores = results[_key(run)] | measure.of(run)
                write_scores(run, scores)
            except DistilError as error:
                on_warning(f"{run.name}: no calibration and flips: {error.message}")
            else:
                results[_key(run)] = scores


def _key(run: SuiteRun) -> tuple[str, str, int]:
    return run.task, run.model, run.seed


def _has_predictions(task: Task) -> bool:
    """Whether there is something that can be right or wrong: a number cannot."""
    if isinstance(task, GlueTask):
        return glue.TASKS[task.name].labels is not None
    return not isinstance(task, RegressionTask)


class _Measure:
    """The models of one task, each with its own rows: tokenizers and orders of classes may differ.

    Args:
        runs: those that are done.
        accelerator: names the device.
    """

    def __init__(self, runs: list[SuiteRun], accelerator: Accelerator) -> None:
        self._runs = runs
        self._accelerator = accelerator
        self._rows: dict[str, OpenTask] = {}
        self._teachers: dict[int, tuple[OpenTask, Decisions] | None] = {}

    def of(self, run: SuiteRun) -> dict[str, float]:
        """What stands beside the scores of a run.

        Raises:
            DistilError: its student is gone, or its teacher, or computes NaN.
        """
        if run.seed not in self._teachers:
            self._teachers[run.seed] = self._teacher(run.seed)
        task = self._task(run)
        outputs = self._outputs(run, task)
        teacher = self._teachers[run.seed]
        if teacher is not None and task.labels != teacher[0].labels:
            outputs = _in_order(outputs, task.labels, teacher[0].labels)
            task = teacher[0]
        decisions = task.decisions(outputs)
        assert decisions is not None
        return reliability_of(decisions, None if teacher is None else teacher[1]).known()

    def _teacher(self, seed: int) -> tuple[OpenTask, Decisions] | None:
        """The rows and what the teacher decides on them; None: there is no teacher."""
        found = {run.model: run for run in self._runs if run.seed == seed}
        run = found.get(TEACHER) or found.get(DISTILLED)
        if run is None:
            return None
        task = self._task(run)
        decisions = task.decisions(self._outputs(run, task, of_teacher=run.model != TEACHER))
        assert decisions is not None
        return task, decisions

    def _task(self, run: SuiteRun) -> OpenTask:
        """The rows as a model reads them, the same for every seed."""
        assert isinstance(run.experiment, TaskExperiment)
        if run.model not in self._rows:
            self._rows[run.model] = open_task_of(run.experiment)
        return self._rows[run.model]

    def _outputs(self, run: SuiteRun, task: OpenTask, of_teacher: bool = False) -> np.ndarray:
        """Of the student of a run, or of its teacher."""
        experiment = run.experiment
        assert isinstance(experiment, TaskExperiment)
        folder = str(RunFolder(experiment.run_folder).student)
        model: TaskModel | None
        if of_teacher:
            model = load_finetuned_teacher(experiment, task)
        else:
            model = load_finetuned(folder, task)
        assert model is not None
        tokens = experiment.train.tokens_per_micro_batch
        return measured_outputs(task, model, self._accelerator, tokens, run.name)


def _in_order(outputs: np.ndarray, labels: list[str], wanted: list[str]) -> np.ndarray:
    """Outputs of some classes in the order of others, which are the same but for capitals."""
    keys = [class_key(label) for label in labels]
    return outputs[:, [keys.index(class_key(label)) for label in wanted]]
