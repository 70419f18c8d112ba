"""Writing models: a plain transformers folder, all of it or nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.errors import ModelError
from distilcli.files.atomic import replacing, unwritten
from distilcli.files.json_text import to_json
from distilcli.files.marks import refuse_foreign, write_mark
from distilcli.hub.model_files import TOKENIZER_CONFIG, first_line
from distilcli.models.families import MaskedLM, family_of, is_masked_lm, takes_token_types
from distilcli.models.loading import check_finite, load_masked_lm, quietly


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    check: Callable[[Path], None] = lambda _: None,
    may_replace: Callable[[Path], None] = refuse_foreign,
    add_files: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write a plain transformers folder: model.safetensors, config.json and the tokenizer.

    All or nothing: whatever goes wrong, `folder` holds the old model or the new one. It is marked
    as written by this tool.

    Args:
        model: what is written.
        tokenizer: written beside it.
        folder: where to.
        check: given the folder before it gets its name; what it raises leaves nothing behind.
        may_replace: given `folder` while no other process writes it; raises where it may not be
            replaced.
        add_files: given the new folder; writes what else belongs into it.

    Raises:
        RunFolderError: there is something else in `folder`.
        ModelError: it cannot be written (no permission, a file in the way).
        WriteError: the disk is full.
    """
    try:
        with replacing(folder) as new:
            may_replace(folder)
            new.mkdir()
            for name, value in family_of(model).older_settings(model.config).items():
                setattr(model.config, name, value)
            with quietly():
                model.save_pretrained(new)
                save_tokenizer(tokenizer, new, has_token_types=takes_token_types(model))
            add_files(new)
            check(new)
            write_mark(new, "student")
    except (OSError, SafetensorError) as error:
        raise unwritten(
            f"{folder}: the model",
            error,
            ModelError,
            "Free disk space, fix the permissions or choose another folder.",
        ) from error


def save_tokenizer(
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    has_token_types: bool,
    cut_at: int | None = None,
) -> None:
    """Write the tokenizer for a model with or without token types.

    What earlier calls have set, or the teacher's file, is not written with it: whoever reads
    tokenizer.json without transformers would get padded texts, or texts cut at another length.

    A BERT's tokenizer gives token types, and a DistilBERT refuses them: in transformers 4
    `model(**tokenizer(text))` would be a TypeError. It also reads older names than those that
    transformers 5 writes.

    Args:
        tokenizer: of the model.
        folder: where to.
        has_token_types: whether the model takes token types.
        cut_at: tokens at which tokenizer.json cuts a text, and others that are told to cut it;
            None: it cuts none.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    if cut_at is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(cut_at)
    try:
        tokenizer.save_pretrained(folder)
    except (TypeError, ValueError) as error:  # of settings that no tokenizer has
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} cannot be saved ({first_line(error)})",
            "Look at its tokenizer_config.json.",
        ) from error
    path = folder / TOKENIZER_CONFIG
    tree = json.loads(path.read_text(encoding="utf-8"))
    types = ["token_type_ids"] if has_token_types else []
    tree["model_input_names"] = ["input_ids", *types, "attention_mask"]
    if cut_at is not None:
        tree["model_max_length"] = cut_at
    # Names that transformers 4 reads as well, which has no others for them.
    if tree.get("tokenizer_class") == "TokenizersBackend":
        tree["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(tree.get("extra_special_tokens"), list):
        tree["additional_special_tokens"] = tree.pop("extra_special_tokens")
    path.write_text(to_json(tree, indent=2) + "\n", encoding="utf-8")


def save_verified(
    model: MaskedLM,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    may_replace: Callable[[Path], None] = refuse_foreign,
) -> None:
    """`save_model`, after `verify_saved`: a model that fails is not there for anyone to trust."""

    def check(fresh: Path) -> None:
        verify_saved(model, fresh, folder)

    check_finite(model, f"student for {folder}")
    save_model(model, tokenizer, folder, check, may_replace)


def verify_saved(model: MaskedLM, folder: Path, name: Path | None = None) -> None:
    """Load `folder` again, compare every weight with `model` and run it once.

    Args:
        model: what was saved.
        folder: where it lies.
        name: what messages call that, if not `folder`.

    Raises:
        ModelError: it does not load, a weight differs, or what it computes is not finite.
    """
    name = name or folder
    saved = load_masked_lm(
        str(Path(folder).resolve()),
        dtype=model.dtype,
        role="saved model",
        needs_head=is_masked_lm(model),
    )
    differing = first_difference(model, saved)
    if differing is not None:
        raise ModelError(f"{name}: the saved weights differ from the model's ({differing} first)")
    with torch.inference_mode():
        output = saved(input_ids=torch.arange(min(4, saved.config.vocab_size))[None])
    what, found = next(iter(output.items()))  # logits, or the hidden states of a body alone
    if not bool(found.isfinite().all()):
        raise ModelError(
            f"{name}: the student's {what.replace('_', ' ')} are not finite, although every weight "
            "is: what it computes overflows",
            "Look at the model that its layers come from.",
        )


def first_difference(one: nn.Module, other: nn.Module, tolerance: float = 0.0) -> str | None:
    """The first weight, by name, that two models do not share; None if all.

    Args:
        one: a model.
        other: another one.
        tolerance: length of the difference of a weight over that of the weight up to which it is
            taken for the same; 0: to the last bit.
    """
    ours, theirs = one.state_dict(), other.state_dict()
    differing = ours.keys() ^ theirs.keys()
    differing |= {
        key
        for key in ours.keys() & theirs.keys()
        if not _are_equal(ours[key].cpu(), theirs[key].cpu(), tolerance)
    }
    return min(differing, default=None)


def _are_equal(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if tolerance == 0.0 or one.shape != other.shape:
        return torch.equal(one, other)
    return bool((one - other).norm() <= tolerance * one.norm())
