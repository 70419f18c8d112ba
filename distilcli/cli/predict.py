"""`distilcli predict`: what a fine-tuned model says of the rows of a task, written to a file.

Its outputs are computed as those of a cached teacher are, in the same parts and batches, so that a
student that learns from the file is the one that would have learned from the model. Parts lie
beside the file, in FILE.parts, until the file is whole: a kill costs one part.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from distilcli.cli.console import Console
from distilcli.cli.models_to_measure import Wanted, experiment_of, model_of
from distilcli.cli.results import settle_runs
from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.predictions import Predictions, check_output, for_model
from distilcli.distillation.task_rows import tell_of_shown
from distilcli.distillation.teacher_outputs import remove_outputs
from distilcli.distillation.teachers import run_once
from distilcli.errors import ConfigError, DistilError, RunFolderError, counted
from distilcli.evaluation.asked import Asked
from distilcli.evaluation.result import duration
from distilcli.files.atomic import locked, replacing, unwritten
from distilcli.training.folder_checks import check_apart, folders_read
from distilcli.training.processes import main_process_first, make_accelerator, of_main_process

_LOCK = "lock"
_ANOTHER_FILE = "Free disk space, or name another file."


@dataclass(frozen=True)
class WantedPredictions:
    """The command line.

    Attributes:
        model: folder or hub name of a model, or a run.
        config: experiment file; None: that of the run.
        overrides: settings laid over it.
        output: file to write.
        rows: files whose rows are shown to the model; none: those of the task to train on.
        id_column: column of ids that are written too; None: as the experiment says.
    """

    model: str
    config: Path | None
    overrides: tuple[str, ...]
    output: Path
    rows: tuple[str, ...]
    id_column: str | None


def run(wanted: WantedPredictions, console: Console) -> None:
    """Run the model over the rows and write its outputs."""
    settle_runs([wanted.model])
    experiment = experiment_of(Wanted([wanted.model], Asked(), wanted.config, wanted.overrides))
    if experiment is None:
        raise ConfigError("no experiment says what the task is", "Give --config FILE.")
    if not isinstance(experiment, TaskExperiment):
        raise ConfigError(
            "the experiment is not on a task, and predict writes the outputs of a task",
            "Give the --config of an experiment with a task section.",
        )
    model = model_of(wanted.model)
    check_output(wanted.output, experiment.task.teacher_outputs)
    places = {"MODEL": model} | folders_read(experiment)
    check_apart({"--output": wanted.output}, places)
    outputs = experiment.task.teacher_outputs
    experiment = for_model(experiment, model, wanted.rows, wanted.id_column)
    accelerator = make_accelerator(experiment)
    words = _WORDS | (_WORDS_OF_ROWS if wanted.rows else {})
    with main_process_first(accelerator), _in_other_words(words):
        column = None if outputs is None else outputs.column
        predictions = Predictions.open(experiment, column, accelerator.device)
    tell_of_shown(predictions.task, console, words)
    found = predict(predictions, wanted.output, accelerator, console.note)
    accelerator.end_training()
    rows, columns = counted(found.rows, "row"), ", ".join(found.columns)
    console.say(f"{rows} in {duration(found.seconds)}: {columns}")
    console.say(f"written: {wanted.output}")
    console.result(found.record() | {"model": model, "output": str(wanted.output)})


@dataclass(frozen=True)
class Predicted:
    """What was written.

    Attributes:
        rows: of the file.
        inputs: that the model was shown.
        columns: of the file.
        labels: the classes, in the order of the model's outputs.
        seconds: from the first part to the last row.
    """

    rows: int
    inputs: int
    columns: list[str]
    labels: list[str]
    seconds: float

    def record(self) -> dict[str, Any]:
        """For programs."""
        return vars(self).copy()


def predict(
    predictions: Predictions,
    output: Path,
    accelerator: Accelerator,
    on_note: Callable[[str], None],
) -> Predicted:
    """Run the model over the rows, unless that was done before, and write its outputs.

    Args:
        predictions: the model and the rows.
        output: the file; nothing is there.
        accelerator: names device and processes; all of them must call this. The main one writes,
            and the others do not wait for it.
        on_note: told what goes on.

    Raises:
        NonFiniteLossError: an output is NaN or infinite.
        RunFolderError: another process writes the same file.
        WriteError: something cannot be written.
    """
    start = time.perf_counter()
    parts = output.with_name(f"{output.name}.parts")
    outputs = predictions.outputs(parts)
    with ExitStack() as held:

        def take() -> None:
            try:
                held.enter_context(locked(parts / _LOCK, patience_seconds=0.0))
                outputs.remove_unusable()
            except BlockingIOError:
                raise RunFolderError(
                    f"{parts}: another process writes there", "Wait for it, or name another file."
                ) from None
            except OSError as error:
                raise unwritten(f"{parts}:", error, RunFolderError, _ANOTHER_FILE) from error

        of_main_process(accelerator, take)
        with _in_other_words(_WORDS):
            run_once(predictions.model, outputs, accelerator, predictions.tokens, on_note)
        if accelerator.is_main_process:
            try:
                with replacing(output) as new:
                    predictions.write(outputs, new, output.suffix)
            except OSError as error:
                raise unwritten(f"{output}:", error, RunFolderError, _ANOTHER_FILE) from error
            (parts / _LOCK).unlink(missing_ok=True)
            remove_outputs(parts)
    return Predicted(
        len(predictions.rows),
        len(outputs.inputs),
        predictions.rows.columns,
        predictions.task.labels,
        time.perf_counter() - start,
    )


# What this command says instead of the words of training.
_WORDS = {
    "the teacher's outputs for training inputs": "the model's outputs for inputs",
    "the teacher's outputs": "the model's outputs",
    ", or teacher.cache=null to find the input in a step": "",
    "name another folder in teacher.cache, or set it to null": "name another file",
    "teacher reads the texts": "MODEL reads the texts",
}
# Other rows are opened as those of task.transfer, which is no word of this command line.
_WORDS_OF_ROWS = {
    "task.transfer.files": "--rows",
    "task.transfer.format": "--rows",
    "Set it to": "Give it the ending of",
    "no row to train on has a label": "the rows have no labels",
    "task.transfer": "--rows",
}


@contextmanager
def _in_other_words(words: Mapping[str, str]) -> Iterator[None]:
    """Errors of training in the words of this command."""
    try:
        yield
    except DistilError as error:
        raise error.reworded(words) from error
