"""Loads models, teacher or student alike.

Loading refuses whatever would not compute what its files say. `saving.py` writes models, and
`families/` knows where their parts are.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils import logging as transformers_logging

from distilcli.errors import ModelError
from distilcli.hub.model_files import first_line, model_files
from distilcli.models.configuration import config_of
from distilcli.models.families import Family, MaskedLM, family_of, settle_ties, without_head
from distilcli.models.weights import check_sizes, complete_head, layer_number, read_weights

_WITHOUT_HEAD = (
    " Without one it can teach states and attention alone: set loss.soft_targets.weight=0, "
    "loss.masked_lm.weight=0 and, for one, loss.hidden_states.weight=1."
)


def load_masked_lm(
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    role: str = "teacher",
    new_head: bool | None = None,
    needs_head: bool = True,
) -> MaskedLM:
    """A model with its masked-LM head, every weight found, in eval mode.

    Args:
        name: folder, hub name or builtin:NAME.
        revision: hub revision.
        dtype: of the loaded weights.
        role: what the model is for; it opens every error message.
        new_head: give a model that has no masked-LM head a random one, tied to its embeddings;
            None: nobody can ask for that here.
        needs_head: false: of a model that has no masked-LM head take its body alone, without a
            pooler.

    Raises:
        ModelError: missing, unreachable, damaged, pickled, of another architecture, a decoder,
            or without all the weights of a masked-LM model.
    """
    config = read_config(name, revision, role)
    where = f"{role} {name}"
    if new_head:
        config.tie_word_embeddings = True
    model: MaskedLM
    model, missing = load_weights(family_of(config).masked_lm, config, name, revision, dtype, where)
    if not needs_head and not new_head and _lacks_head(model, missing):
        return without_head(model)
    _check_all_found(model, missing, where, new_head, role)
    settle_ties(model)
    return model


def load_weights(
    model_class: Any,
    config: PreTrainedConfig,
    name: str,
    revision: str | None,
    dtype: torch.dtype,
    where: str,
) -> tuple[Any, set[str]]:
    """A model in eval mode, and the names of its weights that its files do not have.

    Args:
        model_class: of transformers.
        config: from `read_config`.
        name: folder, hub name or builtin:NAME.
        revision: hub revision.
        dtype: of the loaded weights.
        where: opens every error message.

    Raises:
        ModelError: unreachable, damaged, pickled, of other shapes than `config` says, or with a
            weight that is NaN or infinite.
    """
    weights = read_weights(model_files(name, revision, where))
    complete_head(weights, family_of(config))
    check_sizes(config, weights, where)
    model, info = from_weights(model_class, config, weights, dtype, where)
    model.config.name_or_path = name
    _check_shapes(info["mismatched_keys"], info["unexpected_keys"], family_of(config), where)
    check_finite(model, where)
    return model, set(info["missing_keys"])


def from_weights(
    model_class: Any, config: Any, weights: dict[str, Tensor], dtype: torch.dtype, where: str
) -> tuple[Any, dict[str, Any]]:
    """A model of these weights in eval mode, and what transformers says did not fit.

    Raises:
        ModelError: transformers gives up; its message opens with `where`.
    """
    try:
        with quietly():
            # Without a name: transformers looks at no file by itself.
            model, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told apart below, by name and shape
            )
    except Exception as error:  # what transformers raises here shares no base class
        raise ModelError(
            f"{where}: the weights cannot be loaded ({first_line(error)})",
            "Use the config.json that was saved with these weights.",
        ) from error
    return model, info


def read_config(name: str, revision: str | None, role: str) -> Any:
    """The configuration of a model that this package can use.

    Raises:
        ModelError: there is no such model, or it is one that would not compute what it says.
    """
    return config_of(model_files(name, revision, f"{role} {name}"))


def _check_shapes(
    mismatched: set[tuple[str, Any, Any]], unexpected: set[str], family: Family, where: str
) -> None:
    """Refuse weights of other shapes than config.json says, and layers it does not know of."""
    hint = "Use the config.json that was saved with these weights."
    if mismatched:
        key, found, expected = min(mismatched, key=lambda entry: entry[0])
        raise ModelError(
            f"{where}: {key} is {list(found)}, but config.json makes it {list(expected)}", hint
        )
    # A pooler or a next-sentence head is rightly left out; part of a layer is not.
    layers = [key for key in unexpected if layer_number(key, family) is not None]
    if layers:
        raise ModelError(f"{where}: config.json does not account for {min(layers)}", hint)


def check_finite(model: nn.Module, where: str) -> None:
    """Refuse weights that are NaN or infinite: whatever is computed from them means nothing.

    Costs less than a tenth of reading the weights (24 GB/s on one core).

    Raises:
        ModelError: naming the first such tensor; its message opens with `where`.
    """
    found: dict[int, str] = {}  # by address: a tied one counts once
    for name, tensor in model.state_dict().items():
        if not _is_finite(tensor):
            found.setdefault(tensor.data_ptr(), name)
    bad = list(found.values())
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise ModelError(
            f"{where}: {bad[0]}{more} holds NaN or infinite values",
            "Use a checkpoint from before its training diverged, or copy it again.",
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # The extremes are NaN if any value is; looking at every value by itself is 50 times slower.
    lowest, highest = tensor.aminmax()
    return bool(lowest.isfinite() & highest.isfinite())


def _of_body(model: MaskedLM, names: set[str]) -> set[str]:
    return {name for name in names if name.startswith(f"{model.base_model_prefix}.")}


def _of_head(model: MaskedLM) -> set[str]:
    """Names of the weights of a masked-LM head, but for the decoder's, which may be tied."""
    names = set(model.state_dict())
    return names - _of_body(model, names) - {f"{family_of(model).vocabulary_head.decoder}.weight"}


def _lacks_head(model: MaskedLM, missing: set[str]) -> bool:
    """Whether a checkpoint has the whole body, and nothing of a masked-LM head."""
    return not _of_body(model, missing) and _of_head(model) <= missing


def _check_all_found(
    model: MaskedLM, missing: set[str], where: str, new_head: bool | None, role: str
) -> None:
    """Refuse weights that the checkpoint lacks: transformers would have made them up."""
    body = _of_body(model, missing)
    vocabulary_head = family_of(model).vocabulary_head
    head = _of_head(model)
    if body:
        raise ModelError(
            f"{where}: {len(body)} weights of its body are missing, {min(body)} first",
            "Copy or download it again.",
        )
    if not missing or (new_head and head <= missing):
        return
    if head <= missing:
        raise ModelError(
            f"{where}: it has no masked-LM head",
            f"Use a checkpoint of class {' or '.join(vocabulary_head.saved_by)}."
            + (new_head is False) * " A student can get a new head: student.new_head=true."
            + (vocabulary_head.without_it and f" {vocabulary_head.without_it}")
            + (role == "teacher") * _WITHOUT_HEAD,
        )
    raise ModelError(
        f"{where}: part of its masked-LM head is missing ({', '.join(sorted(missing))})",
        "Copy or download it again.",
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Silence transformers' load reports and progress bars; what matters is raised instead."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
