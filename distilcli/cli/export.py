"""`distilcli export`: a student as ONNX, int8 and half precision, certified."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distilcli.cards.card import write_card
from distilcli.cards.export import Files, card_of_export
from distilcli.cards.export_use import Texts
from distilcli.cards.facts import Facts, facts_of_folder
from distilcli.cards.measured import in_words
from distilcli.cli.console import Console
from distilcli.cli.evaluate import settings_of_models
from distilcli.cli.export_table import notes_of, table_of
from distilcli.cli.models_to_measure import Wanted, experiment_of, model_of
from distilcli.cli.push import Push
from distilcli.cli.results import run_of, settle_runs
from distilcli.config.experiment import BaseExperiment, MaskedLMExperiment
from distilcli.distillation.identity import identity_of_model
from distilcli.distillation.run_kinds import kind_of
from distilcli.errors import ConfigError, DataError, ModelError, RunFolderError, counted, either
from distilcli.evaluation.asked import Asked
from distilcli.evaluation.result import Result
from distilcli.export.folder import (
    FORMATS,
    Earlier,
    Exported,
    Format,
    refuse_changed,
    write_export,
)
from distilcli.export.opening import open_subject
from distilcli.export.running import check_extra
from distilcli.export.subjects import OfVectors, Subject
from distilcli.files.atomic import recover, why_not_writable
from distilcli.files.marks import refuse_foreign
from distilcli.files.shown_paths import shown_text, shown_words
from distilcli.training.environment import describe_environment
from distilcli.training.folder_checks import check_apart, folders_read

_FEW = 30  # inputs that a score is measured on


@dataclass(frozen=True)
class WantedExport:
    """The command line.

    Attributes:
        model: folder or hub name of a student, or a run.
        output: folder to write.
        formats: as they were typed.
        max_drop: how far the score may fall.
        asked: on what is measured, and whether speed is.
        config: experiment file; None: that of the run.
        overrides: settings laid over it.
    """

    model: str
    output: Path
    formats: str
    max_drop: float
    asked: Asked
    config: Path | None
    overrides: tuple[str, ...]


def run(wanted: WantedExport, console: Console, push: Push | None = None) -> None:
    """Export the student, say what was measured, and send it to the hub if it is asked for."""
    formats = _formats(wanted.formats)
    settle_runs([wanted.model])
    named = Wanted([wanted.model], wanted.asked, wanted.config, wanted.overrides)
    found = experiment_of(named)
    model = model_of(wanted.model)
    experiment: BaseExperiment = found or settings_of_models(
        Wanted([model], wanted.asked, wanted.config, wanted.overrides)
    )
    kind = kind_of(experiment)
    kind.check_asked(wanted.asked)
    check_apart({"--output": wanted.output}, {"MODEL": model} | folders_read(experiment))
    _check_output(wanted.output, console)
    check_extra()
    refuse_changed(model)
    if push is not None:
        push.check()
    with _paths_explained(model, None if wanted.config else experiment):
        subject = open_subject(kind, model, wanted.asked, console)
    if (count := len(subject.first_inputs)) < _FEW:
        console.warn(f"a score on {counted(count, 'input')} says little of an export")
    identity = identity_of_model("model", model)
    environment = describe_environment()
    facts = {
        "experiment": None if found is None else found.name,
        "identity": {key: one.digest for key, one in identity.items()},
        "environment": environment | {"command": shown_words(environment["command"])},
    }
    known = facts_of_folder(Path(identity["model configuration"].place).parent, experiment)

    def add_card(new: Path, exported: Exported) -> None:
        named_on_hub = None if Path(model).exists() else model
        _write_card(new, exported, subject, known, named_on_hub)

    exported = write_export(
        subject,
        wanted.output,
        formats,
        wanted.max_drop,
        facts,
        console.note,
        with_speed=wanted.asked.speed is not False,
        earlier=_earlier(known, wanted.asked),
        add_files=add_card,
    )
    result = _shown(exported, subject, wanted.output)
    console.show_to_people(result)
    record = result.record
    if push is not None:
        record = push.send(wanted.output, record)
    console.result(record)


def _check_output(output: Path, console: Console) -> None:
    """Make sure that the export can be written, before anything is measured.

    Raises:
        RunFolderError: it cannot, or there is something else.
    """
    recover(output)
    refuse_foreign(output, "export")
    reason = why_not_writable(Path(os.path.realpath(output)).parent)
    if reason is not None:
        raise RunFolderError(
            f"--output {output}: cannot be written ({reason})", "Name another folder."
        )
    if output.is_dir() and any(output.iterdir()):
        console.note(f"{output}: the export that is there is replaced, all of its files")


@contextmanager
def _paths_explained(model: str, experiment: BaseExperiment | None) -> Iterator[None]:
    """Where a run was trained in another folder than this one, what is not found may be there.

    Args:
        model: of the run; what is said of it has nothing to do with that.
        experiment: of the run; None: another one is named.
    """
    try:
        yield
    except (ConfigError, DataError, ModelError) as error:
        run = run_of(model)
        if run is None or experiment is None or model in error.message:
            raise
        if _real(run.root) != _real(experiment.run_folder):
            error.hint += (
                " Relative paths of a run are those of the folder that it was trained in: go "
                "there, or "
            )
            error.hint += (
                "measure on other text: --text FILE."
                if isinstance(experiment, MaskedLMExperiment)
                else "say where rows are: --dev FILE, and settings such as task.train.files=FILE."
            )
        raise


def _real(path: Path) -> str:
    return os.path.realpath(path)


def _earlier(facts: Facts, asked: Asked) -> Earlier:
    """What `eval` has measured of a student and its teacher on the experiment's own data."""
    own = facts.measured
    if own is None or asked.is_other_data:
        return Earlier()
    return Earlier(own.scores, own.of_teacher)


def _write_card(
    new: Path, exported: Exported, subject: Subject, facts: Facts, student: str | None
) -> None:
    """README.md of an export: that of its student, with what was measured of its files."""
    halves = [one for one in ("fp16", "bf16") if one in exported.files]
    files = Files(
        onnx=exported.files.get("onnx"),
        int8=exported.files.get("int8"),
        half=halves[0] if halves else None,
    )
    texts = Texts()
    if isinstance(subject, OfVectors):
        reading = subject.encoding.reading
        texts = Texts(reading.prompt, reading.lowers)

    def title(score: str) -> str:
        return in_words(score, facts.use.tag, subject.positive)

    table = table_of(exported, shown_text(subject.what), title)
    card = card_of_export(facts, table, notes_of(exported), files, texts, student)
    write_card(new, card)


def _formats(words: str) -> list[Format]:
    """The formats that --formats names.

    Raises:
        ConfigError: a format is not known, or two of them would be the same file.
    """
    named = [word.strip() for word in words.split(",") if word.strip()]
    if not named:
        raise ConfigError("--formats names no format", f"Use {either(FORMATS)}.")
    unknown = [word for word in named if word not in FORMATS]
    if unknown:
        raise ConfigError(
            f"--formats {words}: {unknown[0]!r} is not a format", f"Use {either(FORMATS)}."
        )
    if {"fp16", "bf16"} <= set(named):
        raise ConfigError(
            f"--formats {words}: fp16 and bf16 would both be model.safetensors",
            "Export them to two folders.",
        )
    return [one for one in FORMATS if one in named]


def _shown(exported: Exported, subject: Subject, output: Path) -> Result:
    """The table, what explains it, and the files."""
    lines = [*notes_of(exported), *(f"{one}: {name}" for one, name in exported.files.items())]
    lines.append(f"written: {output}")
    record = exported.record | {"output": str(output)}
    return Result(table_of(exported, subject.what, subject.title), lines, record)
