"""Writing models: a plain transformers folder, all of it or nothing."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.errors import ModelError
from distilcli.models import MaskedLM, check_finite, load_masked_lm, quietly


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    check: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write a plain transformers folder: model.safetensors, config.json and the tokenizer.

    All or nothing: everything is written beside `folder` and renamed into place, so that whatever
    goes wrong, `folder` holds the old model or the new one.

    Args:
        model: what is written.
        tokenizer: written beside it.
        folder: where to.
        check: given the folder before it gets its name; what it raises leaves nothing behind.

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
        check(fresh)
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


def save_verified(model: MaskedLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """`save_model`, after `verify_saved`: a model that fails is not there for anyone to trust."""

    def check(fresh: Path) -> None:
        verify_saved(model, fresh, folder)

    check_finite(model, f"student for {folder}")
    save_model(model, tokenizer, folder, check)


def verify_saved(model: MaskedLM, folder: Path, name: Path | None = None) -> None:
    """Load `folder` again, compare every weight with `model` and run it once.

    Args:
        model: what was saved.
        folder: where it lies.
        name: what messages call that, if not `folder`.

    Raises:
        ModelError: it does not load, a weight differs, or its logits are not finite.
    """
    name = name or folder
    saved = load_masked_lm(str(Path(folder).resolve()), dtype=model.dtype, role="saved model")
    differing = first_difference(model, saved)
    if differing is not None:
        raise ModelError(f"{name}: the saved weights differ from the model's ({differing} first)")
    with torch.inference_mode():
        logits = saved(input_ids=torch.arange(min(4, saved.config.vocab_size))[None]).logits
    if not bool(logits.isfinite().all()):
        raise ModelError(
            f"{name}: the student's logits are not finite, although every weight is: what it "
            "computes overflows",
            "Look at the model that its layers come from.",
        )


def first_difference(one: nn.Module, other: nn.Module) -> str | None:
    """The first weight, by name, that two models do not share to the last bit; None if all."""
    ours, theirs = one.state_dict(), other.state_dict()
    differing = ours.keys() ^ theirs.keys()
    differing |= {
        key
        for key in ours.keys() & theirs.keys()
        if not torch.equal(ours[key].cpu(), theirs[key].cpu())
    }
    return min(differing, default=None)
