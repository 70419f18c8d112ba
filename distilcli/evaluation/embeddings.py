"""Sentence encoders beside their teacher: how their vectors rank pairs and documents."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from distilcli.batches.packing import by_length, spread
from distilcli.evaluation.asked import TEACHER, Asked
from distilcli.evaluation.dev_examples import TaskScores
from distilcli.evaluation.gathering import everywhere, gathered, scores_of, share_of
from distilcli.evaluation.result import Result, Table, percent
from distilcli.evaluation.speed import Pass, measure_passes
from distilcli.evaluation.task import lines_of_passes, rows_of_passes
from distilcli.models.attention import use_packed_attention
from distilcli.models.families import num_parameters, size_mib
from distilcli.models.sentence_encoders import Encoding, encode
from distilcli.tasks.embedding import OpenEmbedding
from distilcli.tasks.inputs import Inputs, pack_inputs
from distilcli.tasks.vector_scores import NEIGHBOURS, mean_cosine, neighbours_kept

# Texts whose neighbours are compared: with more, the products of all pairs take minutes.
_COMPARED_TEXTS = 5000


def encoder_scores(
    data: OpenEmbedding,
    model: PreTrainedModel,
    encoding: Encoding,
    accelerator: Accelerator,
    tokens_per_micro_batch: int,
    widths: Sequence[int],
    name: str = "the student",
) -> TaskScores:
    """Scores of a packed model's vectors, over all processes; its mode is restored.

    Args:
        data: what is measured on.
        model: on the device.
        encoding: how its vectors are made.
        accelerator: names device and processes; all of them must call this.
        tokens_per_micro_batch: of one forward pass.
        widths: of the first numbers that are measured as vectors of their own, too.
        name: of the model; opens the message.

    Raises:
        NonFiniteLossError: a vector is NaN or infinite.
    """
    vectors = _gathered_vectors(data, model, encoding, accelerator, tokens_per_micro_batch)

    def score(found: Mapping[str, np.ndarray]) -> dict[str, float]:
        return scores_at(data, found, widths)

    scores = scores_of(vectors, score, accelerator, _NOT_FINITE.format(name))
    return TaskScores(scores, data.score)


_NOT_FINITE = "{}: not all of its vectors of the texts measured on are finite"


def scores_at(
    data: OpenEmbedding, vectors: Mapping[str, np.ndarray], widths: Sequence[int]
) -> dict[str, float]:
    """Scores of whole vectors, and of their first numbers under names that end with the width."""
    found = data.scores(vectors)
    for width in widths:
        cut = {name: one[:, :width] for name, one in vectors.items()}
        found |= {f"{name}_{width}": value for name, value in data.scores(cut).items()}
    return found


def encoder_vectors(
    data: OpenEmbedding,
    model: PreTrainedModel,
    encoding: Encoding,
    accelerator: Accelerator,
    tokens_per_micro_batch: int,
    name: str,
) -> dict[str, np.ndarray]:
    """A packed model's vectors of all texts that are measured on, by their names, in order.

    Each process runs a part of the texts, and all get all vectors.

    Raises:
        NonFiniteLossError: a vector is NaN or infinite; its message opens with `name`.
    """
    vectors = _gathered_vectors(data, model, encoding, accelerator, tokens_per_micro_batch)
    message = _NOT_FINITE.format(name)
    return {what: everywhere(found, accelerator, message) for what, found in vectors.items()}


def _gathered_vectors(
    data: OpenEmbedding,
    model: PreTrainedModel,
    encoding: Encoding,
    accelerator: Accelerator,
    tokens_per_micro_batch: int,
) -> dict[str, np.ndarray | None]:
    """The vectors of all texts, on the main process; each runs its share of them."""
    found = {}
    for what, inputs in data.measured.items():
        mine = share_of(len(inputs), accelerator)
        own = _vectors_of(model, inputs, mine, encoding, accelerator, tokens_per_micro_batch)
        found[what] = gathered(own, np.ones(len(inputs), dtype=np.int64), accelerator)
    return found


@torch.no_grad()
def _vectors_of(
    model: PreTrainedModel,
    inputs: Inputs,
    samples: np.ndarray,
    encoding: Encoding,
    accelerator: Accelerator,
    tokens_per_micro_batch: int,
) -> list[tuple[int, np.ndarray]]:
    """Each of these texts' index with its vector, float [1, width]."""
    was_training = model.training
    model.eval()
    found: list[tuple[int, np.ndarray]] = []
    for group in by_length(samples, inputs.lengths, tokens_per_micro_batch):
        batch = pack_inputs(inputs, group).to(accelerator.device)
        # In the precision of the weights: rounded to bf16, other texts may be the nearest.
        with torch.autocast(accelerator.device.type, enabled=False):
            vectors, _ = encode(model, batch, encoding)
        found += zip(group, vectors.cpu().numpy()[:, None], strict=True)
    model.train(was_training)
    return found


def compare_encoders(
    models: dict[str, PreTrainedModel],
    encodings: dict[str, Encoding],
    paths: dict[str, str],
    data: OpenEmbedding,
    asked: Asked,
    tokens_per_micro_batch: int,
    accelerator: Accelerator,
    on_note: Callable[[str], None],
    widths: Sequence[int],
) -> Result:
    """Measure sentence encoders, the teacher first.

    Args:
        models: by what they are called, in fp32.
        encodings: how the vectors of each are made.
        paths: folder or hub name of each.
        data: what is measured on.
        asked: on which files, whether speed is measured, on how many inputs.
        tokens_per_micro_batch: of one forward pass.
        accelerator: names the device.
        on_note: told what is being measured.
        widths: see `encoder_scores`.

    Raises:
        NonFiniteLossError: a vector is NaN or infinite.
    """
    found: dict[str, dict[str, Any]] = {}
    of_teacher: np.ndarray | None = None
    compared = next(iter(data.measured))  # texts of pairs, or queries
    compared = "documents" if compared == "queries" else compared
    for name, model in models.items():
        on_note(f"measuring vectors of {name}")
        nn.Module.to(model.eval(), accelerator.device)
        use_packed_attention(model)
        vectors = encoder_vectors(
            data, model, encodings[name], accelerator, tokens_per_micro_batch, name
        )
        width = vectors[compared].shape[1]
        scores = scores_at(data, vectors, [one for one in widths if one < width])
        own = _some(vectors[compared])
        of_teacher = own if name == TEACHER else of_teacher
        found[name] = {
            "path": paths[name],
            "scores": scores,
            "retained": _retained(scores, found, data.score),
            "cosine": None if of_teacher is None else mean_cosine(own, of_teacher),
            "neighbours": None if of_teacher is None else neighbours_kept(own, of_teacher),
            "width": width,
            "parameters": num_parameters(model),
            "size_mib": size_mib(model),
        }
    passes: dict[str, list[Pass]] = {}
    if asked.speed:
        passes = measure_passes(models, data.measured[compared], asked.num_sequences, on_note)
    for name, record in found.items():
        record["passes"] = [asdict(one) for one in passes.get(name, [])]
    lines = lines_of_passes(passes)
    lines.append(f"cosine and neighbours: of {len(_some(vectors[compared])):,} texts of {compared}")
    record = {"score": data.score, "dev": list(asked.dev) or None, "models": found}
    return Result(_table_of(found, passes, data, asked.dev), lines, record)


def _some(vectors: np.ndarray) -> np.ndarray:
    """Vectors at even distances, so many that their neighbours can be compared."""
    chosen: np.ndarray = vectors[spread(np.ones(len(vectors)), _COMPARED_TEXTS, len(vectors))]
    return chosen


def _retained(
    scores: Mapping[str, float], found: Mapping[str, Mapping[str, Any]], score: str
) -> float | None:
    """The share that is retained of the teacher's score, if that is above 0."""
    reference = (found[TEACHER]["scores"] if TEACHER in found else scores)[score]
    return scores[score] / reference if reference > 0 else None


def _table_of(
    found: dict[str, dict[str, Any]],
    passes: dict[str, list[Pass]],
    data: OpenEmbedding,
    dev: tuple[str, ...],
) -> Table:
    """One column a model, so that the table fits a terminal."""
    records = list(found.values())
    names = dict.fromkeys(name for record in records for name in record["scores"])
    rows = [[name, *(percent(record["scores"].get(name)) for record in records)] for name in names]
    rows += [
        ["retained", *(percent(record["retained"]) for record in records)],
        ["cosine to teacher", *(percent(record["cosine"]) for record in records)],
        [f"neighbours kept at {NEIGHBOURS}", *(percent(r["neighbours"]) for r in records)],
        ["width", *(f"{record['width']:,}" for record in records)],
        ["parameters", *(f"{record['parameters']:,}" for record in records)],
        ["MiB", *(f"{record['size_mib']:.1f}" for record in records)],
    ]
    rows += rows_of_passes(passes, list(found))
    return Table(_title(data, dev), ["", *found], rows)


def _title(data: OpenEmbedding, dev: tuple[str, ...]) -> str:
    parts = [] if data.pairs is None else [f"{len(data.pairs.scores):,} pairs"]
    if "queries" in data.measured:
        queries, documents = (len(data.measured[name]) for name in ("queries", "documents"))
        parts.append(f"{queries:,} queries in {documents:,} documents")
    title = ", ".join(parts)
    return f"{title}; pairs of {', '.join(dev)}" if dev else title
