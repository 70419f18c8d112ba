"""Run folders as commands write them, made up in a moment, and a close look at their pages."""

import json
import re
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from tiny_models import make_bert, word_tokenizer

from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.reading import dump
from distilcli.files.json_text import to_json
from distilcli.files.marks import write_mark
from distilcli.models.copying import copy_layers
from distilcli.models.saving import save_model
from distilcli.models.weights import digest_of_model
from distilcli.report import curves, export_sections, intervals, layer_drawing, scatter

ENVIRONMENT = {
    "distilcli": "0.2.0",
    "python": "3.11.7",
    "packages": {"torch": "2.13.0"},
    "command": ["/bin/distilcli", "train", "--config", "made-up.yaml"],
    "cpu": "A processor",
    "cpu_cores_usable": 2,
    "cpu_threads": 1,
    "memory_gib": 23.5,
    "cuda_devices": [],
}


def write_models(root: Path) -> Path:
    """A teacher of 4 layers, and a student with 2 of them: folders of these names."""
    teacher = make_bert()
    teacher.save_pretrained(root / "teacher")
    word_tokenizer().save_pretrained(root / "teacher")
    save_model(copy_layers(teacher, [0, 2], "distilbert"), word_tokenizer(), root / "student")
    return root


def settings(name: str, folder: Path, models: Path, **changes: Any) -> dict[str, Any]:
    """The settings of a run, as a file has them."""
    return {
        "name": name,
        "output_dir": str(folder),
        "teacher": {"model": str(models / "teacher")},
        "data": {"sources": [{"files": ["made-up.txt"]}], "store": "data/made-up"},
    } | changes


def record(step: int, **more: float) -> dict[str, Any]:
    """What a step writes down."""
    return {
        "step": step,
        "epoch": 0,
        "loss/total": 20.0 / step,
        "loss/kl": 3.0 / step,
        "loss/mlm": 2.0 / step,
        "loss/cos": 1.0 / step,
        "optim/lr": 1e-4,
        "optim/grad_norm": 2.0,
        "speed/tokens": 100,
        "speed/tokens_per_second": 50.0,
        **{f"held_out/{key}": value for key, value in more.items()},
    }


def records(number: int = 30, every: int = 10) -> list[dict[str, Any]]:
    """Those of a run that was validated now and then."""
    return [
        record(step, accuracy=0.2 + step / 100, agreement=0.5, loss=3.0 - step / 50)
        if step % every == 0
        else record(step)
        for step in range(1, number + 1)
    ]


def results(name: str = "tiny", **student: float) -> dict[str, Any]:
    """What `eval` writes of masked-LM training."""

    def model(accuracy: float, parameters: int, latency: float) -> dict[str, Any]:
        scores = {"loss": 2.0, "accuracy": accuracy, "num_masked": 1000, "agreement": 0.6}
        speed = {"latency_ms": latency, "sequences_per_second": 9.0, "length": 64}
        return {
            "parameters": parameters,
            "size_mib": parameters * 4 / 2**20,
            "scores": scores,
            "retained": accuracy / 0.6,
            "speed": speed | {"batch_size": 16, "threads": 2},
        }

    return {
        "distilcli": "0.2.0",
        "experiment": name,
        "text": {"store": "data/made-up", "split": "held_out"},
        "models": {
            "teacher": model(0.6, 4_000_000, 20.0),
            f"{name} at start": model(0.15, 2_000_000, 10.0),
            f"{name} trained": model(student.get("accuracy", 0.45), 2_000_000, 10.0),
        },
    }


def write_run(
    folder: Path,
    models: Path,
    *,
    name: str = "tiny",
    of: list[dict[str, Any]] | None = None,
    measured: dict[str, Any] | None = None,
    finished: bool = True,
    **changes: Any,
) -> Path:
    """A run folder; its models are links to those of `write_models`."""
    root = folder / name
    root.mkdir(parents=True)
    experiment = MaskedLMExperiment.model_validate(settings(name, folder, models, **changes))
    (root / "experiment.yaml").write_text(dump(experiment), encoding="utf-8")
    (root / "environment.json").write_text(to_json(ENVIRONMENT), encoding="utf-8")
    place = str(models / "teacher" / "config.json")
    prints = {"teacher.model configuration": {"place": place, "digest": "0123456789abcdef" * 2}}
    (root / "identity.json").write_text(to_json(prints), encoding="utf-8")
    lines = [to_json(one) + "\n" for one in (records() if of is None else of)]
    if lines:
        (root / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    (root / "initial-student").symlink_to(models / "student")
    if finished:
        (root / "student").symlink_to(models / "student")
    if measured is not None:
        (root / "results.json").write_text(to_json(measured), encoding="utf-8")
    return root


def write_export(
    folder: Path, student: Path | None, *, name: str = "tiny", teacher: bool = True, **changes: Any
) -> Path:
    """The folder of an export as far as reports read it.

    Args:
        folder: to make.
        student: whose weights were exported; None: they are nobody's.
        name: of the run.
        teacher: whether the teacher's speed was measured.
        changes: other values of export.json.
    """
    digest = "0" * 32 if student is None else digest_of_model(student)
    speed = {"teacher": _speed(40.0, 16.0), "student": _speed(20.0, 8.0)}
    if not teacher:
        del speed["teacher"]
    record = {
        "experiment": name,
        "identity": {"model weights": digest},
        "environment": ENVIRONMENT,
        "model": f"{folder.parent}/runs/{name}/student",
        "measured_on": "1,000 masked tokens",
        "score": "accuracy",
        "scores": {"accuracy": 0.45, "loss": 2.0},
        "formats": {
            "onnx": _format("onnx/model.onnx", 8.0, {"32": 0.45}, 9e-07),
            "int8": _format("onnx/model_quantized.onnx", 2.0, {"1": 0.448, "32": 0.446}, 0.03),
        },
        "speed": speed | {"onnx": _speed(10.0, 8.0), "int8": _speed(5.0, 2.0)},
    }
    folder.mkdir(parents=True)
    (folder / "export.json").write_text(to_json(record | changes), encoding="utf-8")
    write_mark(folder, "export")
    return folder


def _speed(single_ms: float, mib: float) -> dict[str, float]:
    return {"single_ms": single_ms, "batched_ms": 32 * single_ms, "mib": mib}


def _format(file: str, mib: float, accuracy: dict[str, float], difference: float) -> dict[str, Any]:
    scores = {size: {"accuracy": one, "loss": 2.0} for size, one in accuracy.items()}
    record = {"file": file, "bytes": int(mib * 2**20), "sha256": "ab" * 32, "scores": scores}
    return record | {"drop": 0.0, "difference": difference, "left_out": []}


def settings_of(run: Path) -> dict[str, Any]:
    """The settings that a run folder has."""
    found: dict[str, Any] = yaml.safe_load((run / "experiment.yaml").read_text(encoding="utf-8"))
    return found


def json_of(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def plain_picture(key: str, title: str, description: str, size: tuple[int, int], paint: Any) -> str:
    """In the place of `drawing.draw`, where a test is about what stands around figures."""
    return (
        f'<svg role="img" aria-labelledby="{key}-t {key}-d" viewBox="0 0 {size[0]} {size[1]}">'
        f'<title id="{key}-t">{escape(title)}</title>'
        f'<desc id="{key}-d">{escape(description)}</desc></svg>'
    )


def draw_nothing(monkeypatch: Any) -> None:
    """Take `plain_picture` for every figure."""
    for module in (curves, export_sections, intervals, layer_drawing, scatter):
        monkeypatch.setattr(module, "draw", plain_picture)


# A close look at a page

_VOID = {"meta", "br", "hr", "img", "link", "input"}


@dataclass
class Seen(HTMLParser):
    """What stands in an HTML page, each mistake in it as a sentence."""

    ids: list[str] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def __hash__(self) -> int:
        return id(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        if len(named) < len(attrs):
            self.mistakes.append(f"{tag} has an attribute twice")
        if tag not in _VOID:
            self._open.append(tag)
        self._look_at(tag, {key: value or "" for key, value in named.items()})

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._look_at(tag, {key: value or "" for key, value in attrs})

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.mistakes.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.texts.setdefault(self._open[-1], []).append(data.strip())

    def _look_at(self, tag: str, attributes: dict[str, str]) -> None:
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.wanted += attributes.get("aria-labelledby", "").split()
        for name in ("href", "src", "srcset", "data", "poster", "action"):
            value = attributes.get(name)
            if value is None:
                continue
            if value.startswith("#"):
                self.wanted.append(value[1:])
            else:
                self.outside.append(value)
        if tag in ("script", "iframe", "object", "embed", "base", "link"):
            self.outside.append(tag)
        for value in attributes.values():
            self.wanted += re.findall(r"url\(#([^)]+)\)", value)
        if tag == "svg" and (
            attributes.get("role") != "img" or not attributes.get("aria-labelledby")
        ):
            self.mistakes.append("a picture without a name")
        if tag in ("table",) and not attributes.get("aria-labelledby"):
            self.mistakes.append("a table without a name")

    def finish(self) -> "Seen":
        """Once all is read: what is still open, and what refers to nothing."""
        self.close()
        self.mistakes += [f"<{tag}> is never closed" for tag in self._open]
        self.mistakes += [f"the id {one} twice" for one in self.ids if self.ids.count(one) > 1]
        self.mistakes += [f"#{one} is nowhere" for one in self.wanted if one not in self.ids]
        return self


def seen(html: str) -> Seen:
    """What stands in a page."""
    looked = Seen()
    looked.feed(html)
    return looked.finish()


def assert_sound(html: str) -> Seen:
    """A page is well formed, refers to nothing outside, and every figure has its text."""
    found = seen(html)
    assert found.mistakes == []
    assert found.outside == []
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"@import|url\(", style)
    pictures = found.tags.count("svg")
    # The page has a title of its own; SVG and description of one figure have one each.
    assert len([text for text in found.texts.get("title", []) if text]) == pictures + 1
    assert len([text for text in found.texts.get("desc", []) if text]) == pictures
    assert found.tags.count("h1") == 1
    assert html.isprintable() or "\n" in html
    return found
