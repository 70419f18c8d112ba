"""The parts of a run on embeddings: tokenizer, texts, teacher and student."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from distilcli.batches.packing import by_length, spread
from distilcli.config.embedding import EmbeddingExperiment
from distilcli.distillation.run_kind import Audience, Parts, experiment_tokenizer
from distilcli.errors import ConfigError, ModelError
from distilcli.evaluation.result import Result, Table
from distilcli.models.checks import check_tokenizer
from distilcli.models.inside import shape_of
from distilcli.models.narrowing.moments import NUM_SEQUENCES, NUM_TOKENS, TOKENS_AT_ONCE
from distilcli.models.placement import resolve_precision
from distilcli.models.sentence_encoders import (
    Encoding,
    build_encoder_student,
    encoding_of,
    load_encoder,
)
from distilcli.tasks.embedding import OpenEmbedding
from distilcli.tasks.inputs import TaskBatch, pack_inputs
from distilcli.text.tokenizer_checks import unknown_share, unknown_warning
from distilcli.text.tokenizers import TextTokenizer, load_tokenizer, tokenizer_fingerprint


@dataclass(frozen=True)
class EmbeddingParts(Parts):
    """What training embeddings needs.

    Attributes:
        data: its texts.
        encoding: how teacher and student make vectors.
        unknown_share: of the tokens to train on, how many are [UNK], as a fraction.
    """

    teacher: PreTrainedModel
    data: OpenEmbedding
    encoding: Encoding
    unknown_share: float


def open_texts(experiment: EmbeddingExperiment) -> tuple[OpenEmbedding, Encoding, float]:
    """The experiment's texts, read as training will read them.

    Returns:
        The texts; how vectors are made of them; of the tokens to train on the share of [UNK].

    Raises:
        ConfigError, DataError, ModelError: see `OpenEmbedding` and `encoding_of`.
    """
    tokenizer = experiment_tokenizer(experiment)
    _check_tokenizers(experiment, tokenizer)
    encoding = encoding_of(experiment)
    data = OpenEmbedding(experiment.task, TextTokenizer(tokenizer), encoding.reading)
    if data.overlap is not None:
        data.overlap.refuse_same()
    longest = max(int(one.lengths.max()) for one in (data.train, *data.measured.values()))
    tokens = experiment.train.tokens_per_micro_batch
    if longest > tokens:
        raise ConfigError(
            f"train.tokens_per_micro_batch {tokens} is under the {longest} tokens of the longest "
            "text",
            f"Raise it to {longest} or more, or cut texts: task.max_length.",
        )
    share = unknown_share(np.bincount(data.train.token_ids), tokenizer)
    warning = unknown_warning(share, tokenizer)
    if warning:
        data.warnings.append(f"task.train: {warning}")
    return data, encoding, share


def assemble_embedding(experiment: EmbeddingExperiment, device: torch.device) -> EmbeddingParts:
    """Read the texts and load the models.

    Raises:
        ConfigError, DataError, ModelError: see `open_texts` and `build_encoder_student`; also where
            a model has no embedding for some token, or the student has none of the asked widths.
    """
    tokenizer = experiment_tokenizer(experiment)
    data, encoding, share = open_texts(experiment)
    source = experiment.teacher
    teacher = load_encoder(source.model, source.revision, "teacher")
    # Copied before the teacher's precision is lowered: the student starts from fp32.
    student = build_encoder_student(experiment, teacher, lambda: _some_texts(data))
    for model, where in ((teacher, f"teacher {source.model}"), (student, "the student")):
        check_tokenizer(model, tokenizer, where)
    _check_widths(experiment, shape_of(student).width)
    nn.Module.to(teacher, dtype=resolve_precision(source.precision, device))
    return EmbeddingParts(tokenizer, teacher, student, data, encoding, share)


def _some_texts(data: OpenEmbedding) -> list[TaskBatch]:
    """Texts at even distances, which a narrower student is made by."""
    lengths = data.train.lengths
    batches = by_length(spread(lengths, NUM_SEQUENCES, NUM_TOKENS), lengths, TOKENS_AT_ONCE)
    return [pack_inputs(data.train, batch) for batch in batches]


def _check_widths(experiment: EmbeddingExperiment, width: int) -> None:
    too_wide = [one for one in experiment.loss.similarities.matryoshka if one >= width]
    if too_wide:
        raise ConfigError(
            f"loss.similarities.matryoshka: {too_wide[0]} is not below the {width} numbers of the "
            "student's vectors",
            "Name smaller widths; the whole vector is compared anyway.",
        )


def _check_tokenizers(experiment: EmbeddingExperiment, tokenizer: Any) -> None:
    source = experiment.model_source
    if source is None:
        return
    if tokenizer_fingerprint(load_tokenizer(source)) != tokenizer_fingerprint(tokenizer):
        raise ModelError(
            f"the student's {source}: its tokenizer is another than that of "
            f"teacher.model {experiment.teacher.model}",
            "Both must read the same tokens: use a student of this teacher's family.",
        )


# What people see of the texts


def tell_of_texts(data: OpenEmbedding, encoding: Encoding, audience: Audience) -> None:
    """Say how vectors are made, and warn of what a user should know of the texts."""
    audience.note(encoding.in_words)
    for split, number in data.num_bad.items():
        if number:
            audience.warn(f"{split}: bad rows left out: {number:,}")
    if data.num_unjudged:
        audience.note(_unjudged(data))
    for warning in data.warnings:
        audience.warn(warning)


def texts_table(data: OpenEmbedding, encoding: Encoding, share: float, title: str) -> Result:
    """What the texts are: how many, their tokens, what is cut or left out."""
    splits = {"train": data.train} | data.measured
    record: dict[str, Any] = {"pooling": encoding.pooling, "normalize": encoding.normalizes}
    rows = []
    for split, inputs in splits.items():
        record[split] = {
            "texts": len(inputs),
            "tokens": int(inputs.lengths.sum()),
            "longest": int(inputs.lengths.max()),
            "cut": data.cuts[split].inputs,
            "tokens_cut": data.cuts[split].tokens,
        }
        rows.append([split, *(f"{value:,}" for value in record[split].values())])
    columns = ["split", "texts", "tokens", "longest", "cut", "tokens cut"]
    record |= {"bad_rows": data.num_bad, "unjudged_queries": data.num_unjudged}
    record |= {"rows": data.num_rows, "unknown_share": share, "warnings": data.warnings}
    lines: Sequence[str] = [
        encoding.in_words,
        f"rows to train on: {data.num_rows:,}, with {data.texts_per_row} text(s) each",
        f"unknown tokens: {share:.2%} of train",
        *(f"{split}: bad rows left out: {bad:,}" for split, bad in data.num_bad.items() if bad),
        *([_unjudged(data)] if data.num_unjudged else []),
    ]
    return Result(Table(title, columns, rows), lines, record, data.warnings)


def _unjudged(data: OpenEmbedding) -> str:
    return f"queries left out, to which no document is relevant: {data.num_unjudged:,}"
