"""Text that masked-LM models are measured on: held out of training, or any other."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from distilcli.config.data import FilesSource
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.corpus.alignment import spelling_of
from distilcli.corpus.store import Split, TokenStore
from distilcli.corpus.text_cache import Reading, text_store
from distilcli.distillation.run_kind import Audience, show_progress
from distilcli.distillation.tokenization import (
    Tokenization,
    tokenization_of,
    tokenization_of_student,
)
from distilcli.errors import DataError, ModelError
from distilcli.evaluation.asked import Asked
from distilcli.evaluation.held_out import held_out_masker
from distilcli.evaluation.text import Text
from distilcli.files.json_text import to_json
from distilcli.models.families import num_positions
from distilcli.models.loading import read_config
from distilcli.text.tokenizers import (
    load_tokenizer,
    pre_tokenizer_steps,
    text_backend,
    tokenizer_fingerprint,
)


def settings_of(models: Sequence[str], teacher: str | None) -> MaskedLMExperiment:
    """Settings for models that belong to no run: defaults, as far as the models allow.

    Raises:
        ModelError: a model is not there.
    """
    named = [*([teacher] if teacher else []), *models]
    positions = [num_positions(read_config(name, None, "model")) for name in named]
    tree: dict[str, Any] = {
        "name": "text",
        "teacher": {"model": teacher} if teacher else None,
        "student": {"kind": "checkpoint", "model": models[0]},
        "data": {"sources": [{"hub": "none"}], "store": "none"},  # neither is looked at
    }
    settings = MaskedLMExperiment.model_validate(tree)
    length = min(settings.data.max_length, *positions)
    data = settings.data.model_copy(update={"max_length": length})
    return settings.model_copy(update={"data": data})


def text_to_measure(
    experiment: MaskedLMExperiment, paths: dict[str, str], asked: Asked, audience: Audience
) -> Text:
    """The text that models are measured on: what is asked for, else what the store holds out.

    Args:
        experiment: all settings.
        paths: of the models, by what they are called.
        asked: on which text.
        audience: told how far reading is.

    Raises:
        ConfigError, DataError, ModelError: see `other_text` and `held_out_text`.
    """
    if asked.text:
        tokenization = tokenization_of_student(experiment, next(iter(paths.values())))
        return other_text(experiment, asked, tokenization, paths, audience)
    tokenization = tokenization_of(experiment)
    if tokenization.kept is not None:
        # A model of the whole vocabulary would take the ids of a part for its own.
        check_tokenizers(experiment, tokenization, paths)
    return held_out_text(experiment, tokenization)


def held_out_text(experiment: MaskedLMExperiment, tokenization: Tokenization) -> Text:
    """What the experiment's store holds out.

    Raises:
        DataError: nothing is held out, or see `Tokenization.open_store`.
    """
    store = tokenization.open_store()
    if not len(store.held_out):
        raise DataError(
            f"{experiment.data.store}: no held-out text to evaluate on",
            "Set data.held_out_fraction or data.held_out_sources and prepare another store; or "
            "name other text with --text.",
        )
    record = {"store": tokenization.data.store, "split": "held_out"}
    text = _text(experiment, tokenization, store.held_out, store, record)
    teacher_ids = tokenization.teacher_ids
    if tokenization.whole is None or teacher_ids is None:
        return text
    whole = held_out_text(experiment, tokenization.whole)
    return replace(text, whole=whole, teacher_ids=torch.from_numpy(teacher_ids))


def other_text(
    experiment: MaskedLMExperiment,
    asked: Asked,
    tokenization: Tokenization,
    paths: dict[str, str],
    audience: Audience,
) -> Text:
    """Text that no experiment names, in a store of its own.

    Args:
        experiment: says what a document and a sequence is, where `asked` does not.
        asked: names the files.
        tokenization: of the experiment.
        paths: of the models that are measured, by what they are called.
        audience: told how far reading is.

    Raises:
        ModelError: a model has another tokenizer.
        DataError, ConfigError: the text cannot be read.
    """
    check_tokenizers(experiment, tokenization, paths)
    own = (part for part in experiment.data.sources if isinstance(part, FilesSource))
    source = next(own, FilesSource(files=["none"]))
    reading = Reading(
        documents=asked.documents or source.documents,
        text_column=source.text_column,
        max_length=experiment.data.max_length,
        min_length=experiment.data.min_length,
    )
    with audience.bar("reading text") as bar:
        store, folder = text_store(asked.text, reading, tokenization.tokenizer, show_progress(bar))
    counts = store.manifest.train
    record = {
        "files": list(asked.text),
        "store": str(folder),
        "split": "train",
        "documents": counts.documents,
        "sequences": counts.sequences,
        "tokens": counts.tokens,
    }
    text = _text(experiment, tokenization, store.train, store, record)
    if tokenization.whole is None or not tokenization.is_paired:
        return text
    return replace(text, whole=other_text(experiment, asked, tokenization.whole, {}, audience))


def check_tokenizers(
    experiment: MaskedLMExperiment, tokenization: Tokenization, paths: dict[str, str]
) -> None:
    """Refuse models that read other tokens than a text is in.

    Args:
        experiment: names the model whose tokenizer it is.
        tokenization: of the text.
        paths: of the models, by what they are called.

    Raises:
        ModelError: a model has another tokenizer.
    """
    fingerprint = tokenizer_fingerprint(tokenization.tokenizer)
    kept = tokenization.kept
    part = "" if kept is None else f", cut down to {len(kept):,} tokens"
    for name, path in paths.items():
        if tokenizer_fingerprint(load_tokenizer(path)) != fingerprint:
            raise ModelError(
                f"{name}: its tokenizer is another than that of {experiment.tokenizer_source}"
                f"{part}",
                "Measure models of one tokenizer at a time: figures of others are of other tokens.",
            )


def _text(
    experiment: MaskedLMExperiment,
    tokenization: Tokenization,
    split: Split,
    store: TokenStore,
    record: dict[str, Any],
) -> Text:
    tokenizer = tokenization.tokenizer
    masker = held_out_masker(store, tokenizer, experiment.masking.mlm_probability)
    return Text(split, store, record, masker, characters_of(tokenizer))


def characters_of(tokenizer: PreTrainedTokenizerFast) -> Int64[Tensor, " vocab"]:
    """Characters that each token stands for; bytes, where a tokenizer reads bytes."""
    tree = text_backend(tokenizer)
    spelling = spelling_of(to_json(tree))
    steps = pre_tokenizer_steps(tree["pre_tokenizer"])
    in_bytes = spelling.in_bytes or any(step["type"] == "ByteLevel" for step in steps)
    # An added token is of as much text as it says, and not spelled as pieces are.
    for token in tree["added_tokens"]:
        content = token["content"]
        spelling.lengths[token["id"]] = len(content.encode("utf-8") if in_bytes else content)
    return torch.from_numpy(spelling.lengths)
