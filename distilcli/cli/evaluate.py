"""`distilcli eval`: students beside their teacher, as a table and as results.json."""

from dataclasses import replace
from pathlib import Path

from distilcli.cli.cards import write_student_card
from distilcli.cli.console import Console
from distilcli.cli.models_to_measure import Wanted, experiment_of, models_to_measure
from distilcli.cli.results import results_folder, settle_runs, show_and_write
from distilcli.config.experiment import BaseExperiment
from distilcli.distillation.measured_text import settings_of
from distilcli.distillation.run_kinds import kind_of
from distilcli.errors import ConfigError
from distilcli.training.processes import single_accelerator
from distilcli.training.run_folder import RunFolder


def run(wanted: Wanted, console: Console) -> None:
    """Evaluate the teacher and the named models or runs."""
    settle_runs(wanted.models)
    asked = wanted.asked
    found = experiment_of(wanted)
    experiment = found or settings_of_models(wanted)
    if found is None:
        asked = replace(asked, teacher=None)  # it is in the settings
    kind = kind_of(experiment)
    kind.check_asked(asked)
    folder = results_folder(wanted.models, wanted.output, experiment, asked.is_other_data)
    paths = models_to_measure(wanted, kind)
    result = kind.compare(paths, asked, single_accelerator(), console)
    record = {"experiment": found.name if found else None, **result.record}
    record = show_and_write(record, folder, lambda: console.show_to_people(result), console)
    run = None if folder is None else RunFolder(folder)
    if run is not None and run.experiment.exists() and run.student.exists():
        write_student_card(run, None, {}, console)
    console.result(record)


def settings_of_models(wanted: Wanted) -> BaseExperiment:
    """Settings for models that belong to no run, which are measured on text.

    Raises:
        ConfigError: no text or no model is named.
    """
    if wanted.asked.dev:
        raise ConfigError(
            "--dev needs an experiment on a task, and none is named",
            "Name a run on a task, or its --config FILE. Measure on text with --text FILE.",
        )
    if not wanted.asked.text:
        missing = [name for name in wanted.models if "/" in name and not Path(name).exists()]
        if missing:
            raise ConfigError(
                f"{missing[0]}: there is no such run or folder",
                "Give a run folder, such as runs/NAME, or --config FILE beside a hub name.",
            )
        raise ConfigError(
            "no experiment to evaluate with",
            "Give --config FILE or a run folder, such as runs/NAME; or --text FILE.",
        )
    if not wanted.models:
        raise ConfigError("--text: there is no model to measure", "Name a folder or a hub model.")
    return settings_of(wanted.models, wanted.asked.teacher)
