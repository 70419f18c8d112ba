"""Ways to put a student's ONNX graph into int8: score, size and time of each, beside fp32.

    python scripts/benchmarks/int8_ways.py RUN

`export` takes the first of them. The static way is calibrated on inputs that it is then measured
on, which flatters it.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from distilcli.cli.console import Console
from distilcli.cli.models_to_measure import Wanted, experiment_of, model_of
from distilcli.distillation.run_kinds import kind_of
from distilcli.evaluation.asked import Asked
from distilcli.export.graph import quietly, transpose_weights, write_onnx
from distilcli.export.int8 import write_int8
from distilcli.export.opening import open_subject
from distilcli.export.running import batches_of, by_onnxruntime, by_torch, evenly_spaced
from distilcli.export.speeds import measure_speeds
from distilcli.export.subjects import Subject

_CALIBRATED = 128  # inputs


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Inputs of a subject, one by one."""

    def __init__(self, subject: Subject) -> None:
        inputs = subject.first_inputs
        samples = evenly_spaced(_CALIBRATED, len(inputs))
        found = batches_of(subject.graph, inputs, samples, 1, subject.padding)
        self._batches: Iterator[dict[str, np.ndarray]] = (
            {name: tensor.numpy() for name, tensor in batch.items()} for _, batch in found
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def ways(subject: Subject, source: Path) -> dict[str, Callable[[Path], None]]:
    """What writes each file, by what the way is called."""
    model = onnx.load(source)
    transpose_weights(model, those_read_twice=True)

    def dynamic(**changes: object) -> Callable[[Path], None]:
        settings = {
            "op_types_to_quantize": ["MatMul", "Gather"],
            "per_channel": True,
            "reduce_range": True,
            "weight_type": QuantType.QInt8,
        } | changes
        return lambda path: quantize_dynamic(model, path, **settings)

    def static(path: Path) -> None:
        quantize_static(
            model,
            path,
            Calibration(subject),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )

    return {
        "dynamic, a scale a column": lambda path: write_int8(source, path),
        "a scale a matrix": dynamic(per_channel=False),
        "tables in fp32": dynamic(op_types_to_quantize=["MatMul"]),
        "weights of 8 bits": dynamic(reduce_range=False),
        "static": static,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="folder of a run")
    name = parser.parse_args().run
    experiment = experiment_of(Wanted([name]))
    assert experiment is not None
    subject = open_subject(kind_of(experiment), model_of(name), Asked(), Console(as_json=True))
    reference = subject.scores(by_torch(subject.graph), 32, "student")[subject.score]
    print(f"{subject.score} in torch {reference:.4f}, on {subject.what}")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        samples = evenly_spaced(2, len(subject.first_inputs))
        _, example = next(
            batches_of(subject.graph, subject.first_inputs, samples, 2, subject.padding)
        )
        write_onnx(subject.graph, example, source)
        files = {"fp32": (source, by_onnxruntime(source))}
        for number, (way, write) in enumerate(ways(subject, source).items()):
            path = Path(folder) / f"{number}.onnx"
            with quietly():
                write(path)
            files[way] = path, by_onnxruntime(path)
        speeds = measure_speeds(subject, None, files)
        for way, (_, run) in files.items():
            scores = [subject.scores(run, size, way)[subject.score] for size in (1, 32)]
            speed = speeds[way]
            print(
                f"{way:26} {scores[0]:.4f} {scores[1]:.4f}  {speed.mib:7.1f} MiB  "
                f"{speed.single_ms:7.1f} ms  {speed.batched_ms:8.1f} ms"
            )


if __name__ == "__main__":
    main()
