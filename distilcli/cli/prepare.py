"""`distilcli prepare`: makes the data of a run, or checks it."""

from distilcli.cli.console import Console
from distilcli.config.experiment import BaseExperiment
from distilcli.distillation.run_kinds import kind_of
from distilcli.training.folder_checks import check_places


def run(experiment: BaseExperiment, num_proc: int, console: Console) -> None:
    """Prepare the experiment's data, or say that it is there, and show what it holds."""
    check_places(experiment)
    console.show(kind_of(experiment).prepare(num_proc, console))
