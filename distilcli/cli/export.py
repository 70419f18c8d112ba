"""`distilcli export`: a student as ONNX, int8 and half precision, certified."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distilcli.cards.card import write_card
from distilcli.cards.export import card_of_export
from distilcli.cards.facts import facts_of_folder
from distilcli.cli.console import Console
from distilcli.cli.evaluate import settings_of_models
from distilcli.cli.models_to_measure import Wanted, experiment_of, model_of
from distilcli.cli.push import Push
from distilcli.cli.results import settle_runs
from distilcli.config.experiment import BaseExperiment
from distilcli.distillation.identity import identity_of_model
from distilcli.distillation.run_kinds import kind_of
from distilcli.errors import ConfigError, either
from distilcli.evaluation.asked import Asked
from distilcli.evaluation.result import Result, Table
from distilcli.export.folder import FORMATS, Exported, Format, refuse_changed, write_export
from distilcli.export.opening import open_subject
from distilcli.export.running import check_extra
from distilcli.files.atomic import recover
from distilcli.files.marks import refuse_foreign
from distilcli.files.shown_paths import shown_text, shown_words
from distilcli.training.environment import describe_environment
from distilcli.training.folder_checks import check_apart, folders_read


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
    recover(wanted.output)
    refuse_foreign(wanted.output, "export")
    check_extra()
    if wanted.output.is_dir() and any(wanted.output.iterdir()):
        console.note(f"{wanted.output}: the export that is there is replaced, all of its files")
    refuse_changed(model)
    if push is not None:
        push.check()
    subject = open_subject(kind, model, wanted.asked, console)
    identity = identity_of_model("model", model)
    environment = describe_environment()
    facts = {
        "experiment": None if found is None else found.name,
        "identity": {key: one.digest for key, one in identity.items()},
        "environment": environment | {"command": shown_words(environment["command"])},
    }
    source = Path(identity["model configuration"].place).parent

    def add_card(new: Path, exported: Exported) -> None:
        named_on_hub = None if Path(model).exists() else model
        _write_card(new, exported, subject.what, source, named_on_hub)

    exported = write_export(
        subject,
        wanted.output,
        formats,
        wanted.max_drop,
        facts,
        console.note,
        with_speed=wanted.asked.speed is not False,
        add_files=add_card,
    )
    result = _shown(exported, subject.what, wanted.output)
    console.show_to_people(result)
    record = result.record
    if push is not None:
        record = push.send(wanted.output, record)
    console.result(record)


def _write_card(
    new: Path, exported: Exported, what: str, source: Path, student: str | None
) -> None:
    """README.md of an export: that of its student, with what was measured of its files."""
    table = _shown(exported, shown_text(what), new).table
    by_format = {one: exported.files[one] for one in ("int8", "onnx") if one in exported.files}
    card = card_of_export(
        facts_of_folder(source),
        table,
        tuple(by_format.values()),
        is_quantized="int8" in by_format,
        student=student,
    )
    write_card(new, card)


def _formats(words: str) -> list[Format]:
    """The formats that --formats names.

    Raises:
        ConfigError: a format is not known, or two of them would be the same file.
    """
    named = [word.strip() for word in words.split(",")]
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


def _shown(exported: Exported, what: str, output: Path) -> Result:
    """A column for teacher, student and each export."""
    certificates, speeds = exported.certificates, exported.speeds
    names: list[str] = list(dict.fromkeys([*(speeds or ["student"]), *certificates]))
    rows = [_row_of_scores(exported, name, names) for name in exported.scores]
    first = next(iter(exported.scores))
    one_by_one = {name: c.scores.get(1, {}).get(first) for name, c in certificates.items()}
    if any(one_by_one.values()):
        rows.append([f"{first}, one by one", *(_figure(one_by_one.get(name)) for name in names)])
    drops = {name: f"{certificate.drop:.4f}" for name, certificate in certificates.items()}
    rows.append(["falls by", *(drops.get(name, "-") for name in names)])
    differences = {name: f"{one.difference:.1e}" for name, one in certificates.items()}
    rows.append(["largest difference", *(differences.get(name, "-") for name in names)])
    if speeds:
        rows += _rows_of_speed(exported, names)
    lines = [f"{one}: {exported.files[one]}" for one in certificates]
    left_out = {name: one.left_out for name, one in certificates.items() if one.left_out}
    lines += [f"{name}: {len(products)} products in fp32" for name, products in left_out.items()]
    lines.append(f"written: {output}")
    record = exported.record | {"output": str(output)}
    return Result(Table(f"measured on {what}", ["", *names], rows), lines, record)


def _row_of_scores(exported: Exported, score: str, names: Sequence[str]) -> list[str]:
    values: dict[str, float] = {"student": exported.scores[score]}
    values |= {name: one.scores[32][score] for name, one in exported.certificates.items()}
    return [score, *(_figure(values.get(name)) for name in names)]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _rows_of_speed(exported: Exported, names: Sequence[str]) -> list[list[str]]:
    """Sizes and times, and how many times as fast as the teacher each one is."""
    columns = [asdict(exported.speeds[name]) if name in exported.speeds else None for name in names]
    titles = {"mib": "MiB", "single_ms": "one input, ms", "batched_ms": "32 inputs, ms"}
    rows = [
        [title, *("-" if one is None else f"{one[key]:.1f}" for one in columns)]
        for key, title in titles.items()
    ]
    if "teacher" in exported.speeds:
        teacher = asdict(exported.speeds["teacher"])
        for key, title in (("single_ms", "faster, one"), ("batched_ms", "faster, 32")):
            times = ["-" if one is None else f"{teacher[key] / one[key]:.1f} x" for one in columns]
            rows.append([title, *times])
    return rows
