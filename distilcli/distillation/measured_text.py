"""Text that masked-LM models are measured on: held out of training, or any other."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from distilcli.config.data import FilesSource
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.corpus.text_cache import Reading, text_store
from distilcli.distillation.masked_lm_parts import open_store
from distilcli.distillation.run_kind import Audience, show_progress
from distilcli.errors import DataError, ModelError
from distilcli.evaluation.asked import Asked
from distilcli.evaluation.text import Text
from distilcli.models.families import num_positions
from distilcli.models.loading import read_config
from distilcli.text.tokenizers import load_tokenizer, tokenizer_fingerprint


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


def held_out_text(experiment: MaskedLMExperiment, tokenizer: PreTrainedTokenizerFast) -> Text:
    """What the experiment's store holds out.

    Raises:
        DataError: nothing is held out, or see `open_store`.
    """
    store = open_store(experiment, tokenizer)
    if not len(store.held_out):
        raise DataError(
            f"{experiment.data.store}: no held-out text to evaluate on",
            "Set data.held_out_fraction or data.held_out_sources and prepare another store; or "
            "name other text with --text.",
        )
    record = {"store": experiment.data.store, "split": "held_out"}
    return Text(store.held_out, store, record)


def other_text(
    experiment: MaskedLMExperiment,
    asked: Asked,
    tokenizer: PreTrainedTokenizerFast,
    paths: dict[str, str],
    audience: Audience,
) -> Text:
    """Text that no experiment names, in a store of its own.

    Args:
        experiment: says what a document and a sequence is, where `asked` does not.
        asked: names the files.
        tokenizer: of the experiment.
        paths: of the models that are measured, by what they are called.
        audience: told how far reading is.

    Raises:
        ModelError: a model has another tokenizer.
        DataError, ConfigError: the text cannot be read.
    """
    fingerprint = tokenizer_fingerprint(tokenizer)
    for name, path in paths.items():
        if tokenizer_fingerprint(load_tokenizer(path)) != fingerprint:
            raise ModelError(
                f"{name}: its tokenizer is another than that of {experiment.tokenizer_source}",
                "Measure models of one tokenizer at a time: figures of others are of other tokens.",
            )
    own = (part for part in experiment.data.sources if isinstance(part, FilesSource))
    source = next(own, FilesSource(files=["none"]))
    reading = Reading(
        documents=asked.documents or source.documents,
        text_column=source.text_column,
        max_length=experiment.data.max_length,
        min_length=experiment.data.min_length,
    )
    with audience.bar("reading text") as bar:
        store, folder = text_store(asked.text, reading, tokenizer, show_progress(bar))
    counts = store.manifest.train
    record = {
        "files": list(asked.text),
        "store": str(folder),
        "split": "train",
        "documents": counts.documents,
        "sequences": counts.sequences,
        "tokens": counts.tokens,
    }
    return Text(store.train, store, record)
