"""Writing an export: a folder that onnxruntime, Optimum and transformers.js load.

    config.json, tokenizer.json, ...    as they lie beside the student
    onnx/model.onnx                     in fp32
    onnx/model_quantized.onnx           in int8
    model.safetensors                   in fp16 or bf16
    export.json                         what was measured

All of it is there, or nothing: what does not pass its certificate is never given its name.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from distilcli import __version__
from distilcli.errors import ModelError, RunFolderError
from distilcli.export.certificates import (
    Certificate,
    certificate,
    check_drop,
    check_same,
)
from distilcli.export.graph import EncoderGraph, Graph, data_of, files_of, write_onnx
from distilcli.export.int8 import certified_int8
from distilcli.export.running import Run, batches_of, by_onnxruntime, by_torch, evenly_spaced
from distilcli.export.speeds import Speed, measure_speeds
from distilcli.export.subjects import OfVectors, Subject
from distilcli.files.atomic import replacing, unwritten
from distilcli.files.digests import sha256_of_file
from distilcli.files.json_text import parse_json, to_json
from distilcli.files.marks import changed_files, refuse_foreign, write_mark
from distilcli.files.shown_paths import shown_path, shown_text
from distilcli.models.families import family_of, num_positions, takes_token_types
from distilcli.models.inside import shape_of
from distilcli.models.loading import quietly
from distilcli.models.saving import save_tokenizer
from distilcli.models.sentence_encoders import write_encoder_files

Format = Literal["onnx", "int8", "fp16", "bf16"]
FORMATS: tuple[Format, ...] = get_args(Format)
RECORD = "export.json"
_ONNX, _INT8, _WEIGHTS = "onnx/model.onnx", "onnx/model_quantized.onnx", "model.safetensors"
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
BATCH = 32  # of the scores that are shown, except one by one
# Scores of one model on the same data, in two precisions perhaps.
_SAME_SCORE = 0.002


@dataclass(frozen=True)
class Earlier:
    """Scores that were measured before, by name.

    Attributes:
        student: of the model that is exported.
        teacher: on the same data.
    """

    student: Mapping[str, float] = field(default_factory=dict)
    teacher: Mapping[str, float] = field(default_factory=dict)

    def of_teacher(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The teacher's, if they are of the data that these scores of the student are of.

        The student's first score tells: on other data, or of other weights, it is another one.
        """
        first = next(iter(scores))
        before = self.student.get(first, math.inf)
        if abs(before - scores[first]) > _SAME_SCORE:
            return {}
        return {name: self.teacher[name] for name in scores if name in self.teacher}


@dataclass(frozen=True)
class Exported:
    """What was written, and what was measured of it.

    Attributes:
        scores: of the model in torch, by name; the one that exports are judged by first.
        of_teacher: of its teacher, likewise; empty: not known.
        certificates: of each format.
        files: of each format, relative to the folder.
        speeds: by what they are called, teacher and student first; empty: not measured.
        record: what export.json says.
    """

    scores: dict[str, float]
    of_teacher: dict[str, float]
    certificates: dict[str, Certificate]
    files: dict[str, str]
    speeds: dict[str, Speed]
    record: dict[str, Any]


def refuse_changed(name: str) -> None:
    """Refuse a student whose weights or configuration are not those that this tool wrote.

    Raises:
        ModelError: naming the file.
    """
    changed = [one for one in changed_files(Path(name)) if one in (_WEIGHTS, "config.json")]
    if changed:
        raise ModelError(
            f"student {name}: its {changed[0]} has changed since distilcli wrote it",
            "Copy it again, or train it again. To export what you have changed on purpose, remove "
            "the folder's distilcli.json.",
        )


def write_export(
    subject: Subject,
    folder: Path,
    formats: Sequence[Format],
    max_drop: float,
    facts: dict[str, Any],
    on_note: Callable[[str], None],
    with_speed: bool = True,
    earlier: Earlier | None = None,
    add_files: Callable[[Path, Exported], None] = lambda new, found: None,
) -> Exported:
    """Make all formats, measure them, and write them if all pass.

    Args:
        subject: what is exported.
        folder: where to; an export of this tool that lies there is replaced.
        formats: which.
        max_drop: how far the score may fall.
        facts: what else export.json says, such as the experiment.
        on_note: told what goes on.
        with_speed: whether speed is measured.
        earlier: what was measured before; None: nothing.
        add_files: given the new folder and what was measured; writes what else belongs into it.

    Raises:
        CertificateError: outputs or a score are too far from the model's.
        ConfigError: the extra `export` is not installed.
        RunFolderError: there is something else in the folder.
    """
    try:
        with replacing(folder) as new:
            refuse_foreign(folder, "export")
            (new / "onnx").mkdir(parents=True)
            made = _Making(subject, new, formats, max_drop, on_note)
            found = made.everything(with_speed, facts, earlier or Earlier())
            (new / RECORD).write_text(to_json(found.record, indent=2) + "\n", encoding="utf-8")
            add_files(new, found)
            write_mark(new, "export")
            return found
    except (OSError, SafetensorError) as error:
        hint = "Free disk space, fix the permissions or choose another folder."
        raise unwritten(f"{folder}: the export", error, RunFolderError, hint) from error


@dataclass(frozen=True)
class _Making:
    """One export in the making; see `write_export`."""

    subject: Subject
    folder: Path
    formats: Sequence[Format]
    max_drop: float
    on_note: Callable[[str], None]

    def everything(self, with_speed: bool, facts: dict[str, Any], earlier: Earlier) -> Exported:
        """All files but the record."""
        start = time.perf_counter()
        subject, score = self.subject, self.subject.score
        self._write_settings(subject.model, self.folder)
        self.on_note(f"measuring {score} of {subject.name} on {subject.what}")
        scores = subject.scores(by_torch(subject.graph), BATCH, subject.name)
        certificates: dict[str, Certificate] = {}
        runs: dict[str, tuple[Path, Run]] = {}
        if {"onnx", "int8"} & set(self.formats):
            certificates |= self._graphs(scores[score], runs)
        for half in self.formats:
            if half in _DTYPES:
                certificates[half] = self._half(half, scores[score])
        speeds: dict[str, Speed] = {}
        if with_speed:
            self.on_note("measuring speed on the CPU")
            speeds = measure_speeds(subject, subject.teacher(), runs)
        runs.clear()
        if "onnx" not in self.formats:
            for path in files_of(self.folder / _ONNX):
                path.unlink()
            certificates.pop("onnx", None)
        if not any((self.folder / "onnx").iterdir()):
            (self.folder / "onnx").rmdir()
        files = {one: _file_of(one) for one in certificates}
        self._tell_of_data()
        of_teacher = earlier.of_teacher(scores)
        record = facts | self._record(scores, certificates, files, speeds)
        record |= {"teacher_scores": of_teacher, "seconds": round(time.perf_counter() - start, 1)}
        return Exported(scores, of_teacher, certificates, files, speeds, record)

    def _write_settings(self, model: PreTrainedModel, new: Path) -> None:
        """What lies beside the weights: configuration, tokenizer, and how vectors are made."""
        subject = self.subject
        for name, value in family_of(model).older_settings(model.config).items():
            setattr(model.config, name, value)
        with quietly():
            model.config.save_pretrained(new)
        longest = num_positions(model.config)
        if isinstance(subject, OfVectors):
            longest = subject.encoding.reading.max_length
        has_types = takes_token_types(model)
        save_tokenizer(subject.tokenizer, new, has_token_types=has_types, cut_at=longest)
        if isinstance(subject, OfVectors):
            width = shape_of(model).width
            write_encoder_files(new, subject.encoding, width)

    def _tell_of_data(self) -> None:
        """In config.json, which graphs have their weights beside them: transformers.js asks."""
        graphs = [self.folder / one for one in (_ONNX, _INT8)]
        named = {one.name: 1 for one in graphs if data_of(one).exists()}
        if named:
            path = self.folder / "config.json"
            tree = parse_json(path.read_bytes())
            tree["transformers.js_config"] = {"use_external_data_format": named}
            path.write_text(to_json(tree, indent=2) + "\n", encoding="utf-8")

    def _graphs(
        self, reference: float, runs: dict[str, tuple[Path, Run]]
    ) -> dict[str, Certificate]:
        """The ONNX files, checked, and what runs them."""
        subject, path = self.subject, self.folder / _ONNX
        self.on_note("tracing the model")
        inputs = subject.first_inputs
        samples = evenly_spaced(2, len(inputs))
        if len(samples) < 2:  # what is traced with one input would take one only
            samples = samples.repeat(2)
        _, example = next(batches_of(subject.graph, inputs, samples, 2, subject.padding))
        write_onnx(subject.graph, example, path)
        run = by_onnxruntime(path)
        of_which = "" if "onnx" in self.formats else ", which int8 is made from"
        self.on_note(f"measuring {subject.score} of {path.name}{of_which}")
        found = certificate(subject, run, reference, _ONNX, sizes=(BATCH,))
        check_same(subject, found, _ONNX)
        check_drop(found, self.max_drop, subject.score, reference, _ONNX)
        certificates: dict[str, Certificate] = {"onnx": found}
        if "onnx" in self.formats:
            runs["onnx"] = path, run
        if "int8" in self.formats:
            target = self.folder / _INT8
            certificates["int8"] = certified_int8(
                subject, path, target, reference, self.max_drop, self.on_note
            )
            check_drop(certificates["int8"], self.max_drop, subject.score, reference, _INT8)
            runs["int8"] = target, by_onnxruntime(target)
        return certificates

    def _half(self, half: Format, reference: float) -> Certificate:
        """The weights in half precision, read again and checked."""
        subject = self.subject
        model = copy.deepcopy(subject.model)
        nn.Module.to(model, dtype=_DTYPES[half])
        with quietly():
            model.save_pretrained(self.folder)
            saved = type(model).from_pretrained(self.folder, dtype="auto").eval()
        graph: Graph = subject.graph
        if isinstance(subject, OfVectors):
            graph = EncoderGraph(saved, subject.encoding)
        else:
            graph = Graph(saved, graph.output_names)
        self.on_note(f"measuring {subject.score} in {half}")
        found = certificate(subject, by_torch(graph), reference, half, sizes=(BATCH,))
        check_drop(found, self.max_drop, subject.score, reference, half)
        return found

    def _record(
        self,
        scores: dict[str, float],
        certificates: dict[str, Certificate],
        files: dict[str, str],
        speeds: dict[str, Speed],
    ) -> dict[str, Any]:
        subject = self.subject
        return {
            "distilcli": __version__,
            "model": shown_path(subject.name),
            "measured_on": shown_text(subject.what),
            "score": subject.score,
            "max_drop": self.max_drop,
            "scores": scores,
            "formats": {
                one: {"file": files[one], **_of_files(self.folder / files[one]), **found.record()}
                for one, found in certificates.items()
            },
            "threads": torch.get_num_threads(),
            "speed": {name: vars(speed) for name, speed in speeds.items()},
        }


def _file_of(one: str) -> str:
    return {"onnx": _ONNX, "int8": _INT8}.get(one, _WEIGHTS)


def _of_files(path: Path) -> dict[str, Any]:
    """Size and digest; with those of a file of weights beside it."""
    found: dict[str, Any] = {}
    for one in files_of(path):
        of_it = {"bytes": one.stat().st_size, "sha256": sha256_of_file(one)}
        found |= of_it if one == path else {"data": {"file": one.name, **of_it}}
    return found
