"""The card that a run's student gets when it is trained, and again when it is measured."""

from collections.abc import Mapping

from distilcli.cards.card import CARD, Written, write_card
from distilcli.cards.facts import facts_of_run
from distilcli.cards.student import card_of
from distilcli.cli.console import Console
from distilcli.config.experiment import BaseExperiment
from distilcli.config.kinds import AnyExperiment
from distilcli.config.reading import load_of_run
from distilcli.config.stages import StagedExperiment
from distilcli.errors import DistilError
from distilcli.training.run_folder import RunFolder


def write_student_card(
    run: RunFolder,
    experiment: AnyExperiment | StagedExperiment | None,
    held_out: Mapping[str, float],
    console: Console,
    *,
    had_ended: bool = False,
) -> None:
    """Write the card of a run's student, anew where it is as distilcli wrote it.

    The student is there whatever becomes of its card: what goes wrong is told, and no more.

    Args:
        run: has a student.
        experiment: that was run; None: as the run folder has it.
        held_out: what training measured, see `facts_of_run`.
        console: told where a card is not written.
        had_ended: whether the run had ended before this command. Then the settings that it was
            trained with are those of its folder; only what cards say may be new.
    """
    try:
        if had_ended and isinstance(experiment, BaseExperiment):
            trained = load_of_run(run.experiment)
            experiment = trained.model_copy(update={"card": experiment.card})
        written = write_card(run.student, card_of(facts_of_run(run, experiment, held_out)))
    except DistilError as error:
        console.warn(f"{run.student}: no card was written ({error.message})")
        return
    if written is Written.KEPT:
        console.note(f"{run.student / CARD}: {written.value}")
