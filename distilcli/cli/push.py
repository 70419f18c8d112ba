"""`--push-to-hub` and `distilcli push`: a model's folder, with its card, to the hub."""

from pathlib import Path
from typing import Any

from distilcli.cards.card import CARD, name_in_card
from distilcli.cli.console import Console
from distilcli.cli.launch import is_main_process
from distilcli.config.experiment import BaseExperiment
from distilcli.config.stages import StagedExperiment
from distilcli.errors import ConfigError, DistilError
from distilcli.hub.model_files import CONFIG
from distilcli.hub.uploading import Destination, checked_destination, upload
from distilcli.training.run_folder import RunFolder

_MESSAGE = "Model and card by distilcli"


class Push:
    """One upload: checked before the work begins whose result it sends.

    Args:
        repository: ORG/NAME, or NAME for one of the user's own.
        is_public: whether everyone may see it.
        console: told what is sent.
    """

    def __init__(self, repository: str, is_public: bool, console: Console) -> None:
        self.wanted = Destination(repository, is_public)
        self.console = console

    def check(
        self,
        experiment: BaseExperiment | StagedExperiment | None = None,
        *,
        may_create: bool = True,
    ) -> None:
        """Find out whether this user may send something there; see `checked_destination`.

        Args:
            experiment: whose student will be sent.
            may_create: make the repository where there is none.
        """
        if isinstance(experiment, StagedExperiment):
            experiment = experiment.stages[-1].experiment
        card = experiment.card.model_dump(exclude_defaults=True) if experiment else {}
        self.wanted = checked_destination(self.wanted, may_create=may_create, card=card)
        kind = "public" if self.wanted.is_public else "private"
        self.console.note(f"to be sent to {self.wanted.address} ({kind})")

    def send(self, folder: Path, record: dict[str, Any]) -> dict[str, Any]:
        """Send a folder; only the main process does. The record of the command with the address.

        Args:
            folder: of a model.
            record: what the command has found out, which is the result where sending fails.

        Raises:
            UploadError: the hub does not take it; the hint says how to go on.
        """
        if not is_main_process():
            return record
        name_in_card(folder / CARD, self.wanted.repository)
        self.console.note(f"sending {folder} ({_mib(folder):,.1f} MiB)")
        try:
            address = upload(folder, self.wanted, _MESSAGE)
        except DistilError as error:
            public = " --public" if self.wanted.is_public else ""
            again = f"distilcli push {folder} {self.wanted.repository}{public}"
            error.message = f"{error.message}; {folder} is here, as it should be"
            error.hint = f"{error.hint} Then: {again}"
            self.console.result(record | error.record())
            raise
        self.console.say(f"sent: {address}")
        return {**record, "hub": {"repository": self.wanted.repository, "commit": address}}


def run(name: str, push: Push, console: Console) -> None:
    """Send the student of a run, or any folder of a model."""
    folder = _folder_of(Path(name))
    push.check()
    console.result(push.send(folder, {"folder": str(folder)}))


def _folder_of(path: Path) -> Path:
    """The folder of the model that a name stands for.

    Raises:
        ConfigError: there is none.
    """
    if not path.exists():
        raise ConfigError(
            f"{path}: there is no such run or folder",
            "Give a run, such as runs/NAME, or a model's folder; then its name on the hub.",
        )
    run = RunFolder(path)
    folder = run.student if run.experiment.exists() else path
    if not (folder / CONFIG).is_file():
        what = "this run has no student yet" if folder != path else "there is no model in it"
        raise ConfigError(f"{path}: {what}", "Give a run that is finished, or a model's folder.")
    return folder


def _mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
