"""Writing models: a plain transformers folder, all of it or nothing."""

import os
import shutil
import uuid
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.errors import ModelError
from distilcli.models import MaskedLM, load_masked_lm, quietly


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a plain transformers folder: model.safetensors, config.json and the tokenizer.

    All or nothing: everything is written beside `folder` and renamed into place, so that whatever
    goes wrong, `folder` holds the old model or the new one.

    Raises:
        ModelError: it cannot be written (disk full, no permission, a file in the way).
    """
    folder = Path(folder)
    mark = uuid.uuid4().hex[:8]
    fresh, aside = (folder.with_name(f".{folder.name}.{kind}-{mark}") for kind in ("new", "old"))
    try:
        fresh.mkdir(parents=True)
        with quietly():
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
        _flush(fresh)
        _replace(folder, fresh, aside)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: the model cannot be written ({error})",
            "Free disk space, mend the permissions or choose another folder.",
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _replace(folder: Path, fresh: Path, aside: Path) -> None:
    had_old = folder.exists()
    if had_old:
        folder.rename(aside)
    try:
        fresh.rename(folder)
    except BaseException:
        if had_old:
            aside.rename(folder)
        raise


def _flush(folder: Path) -> None:
    """Force the files to disk, so that the rename cannot overtake their content."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def verify_saved(model: MaskedLM, folder: Path) -> None:
    """Load `folder` again, compare every weight with `model` and run it once.

    Raises:
        ModelError: it does not load, a weight differs, or its logits are not finite.
    """
    saved = load_masked_lm(str(Path(folder).resolve()), dtype=model.dtype, role="saved model")
    expected, found = model.state_dict(), saved.state_dict()
    differing = sorted(
        key
        for key in expected.keys() | found.keys()
        if key not in expected
        or key not in found
        or not torch.equal(expected[key].cpu(), found[key].cpu())
    )
    if differing:
        raise ModelError(
            f"{folder}: the saved weights differ from the model's ({differing[0]} first)"
        )
    with torch.inference_mode():
        logits = saved(input_ids=torch.arange(min(4, saved.config.vocab_size))[None]).logits
    if not bool(logits.isfinite().all()):
        raise ModelError(f"{folder}: the saved model's logits are not finite")
