"""Models with heads, and inputs for them, beside the plain padded runs they are compared with."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tiny_families import exact_attention, tiny_config, with_weights
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from distilcli.models.families import FAMILIES, family_of
from distilcli.tasks.inputs import Inputs, join
from distilcli.tasks.outputs import AnyOf, Number, OneOf, Outputs, Spans

VOCAB = 60
NUM_POSITIONS = 40
BODIES = tuple(FAMILIES)
HEADS = ("sequence", "token", "span")
TASKS = (
    ("sequence", "one-of"),
    ("sequence", "any-of"),
    ("sequence", "number"),
    ("token", "one-of"),
    ("span", "one-of"),
)
each_task = pytest.mark.parametrize(("head", "family"), TASKS)
CLASSES: dict[tuple[str, str], type[PreTrainedModel]] = {
    (body, name): head.model_class
    for body, family in FAMILIES.items()
    for name, head in family.task_heads.items()
} | {(body, "masked-lm"): family.masked_lm for body, family in FAMILIES.items()}


def outputs_of(head: str, family: str) -> Outputs:
    """What the outputs of a task of `each_task` are."""
    if head == "span":
        return Spans()
    return {"one-of": OneOf, "any-of": AnyOf, "number": Number}[family]()


class Padded(NamedTuple):
    """What a plain run of padded inputs gives, as packed runs have it.

    Attributes:
        outputs: one row for each output, input after input.
        hidden: hidden states of the real tokens, input after input: the last ones unless said.
    """

    outputs: Tensor
    hidden: Tensor


def make_model(
    body: str,
    head: str,
    num_labels: int = 3,
    num_layers: int = 2,
    seed: int = 0,
    width: int = 16,
    vocab: int = VOCAB,
    positions: int = NUM_POSITIONS,
) -> PreTrainedModel:
    """A model whose every weight, biases and token types included, is well away from zero."""
    family = FAMILIES[body]
    names = family.settings
    shape: dict[str, Any] = {"vocab_size": vocab, names.hidden_size: width}
    if head != "masked-lm":
        shape["num_labels"] = 2 if head == "span" else num_labels
    config = tiny_config(family, positions, num_layers, **shape)
    return with_weights(CLASSES[body, head], config, seed)


def make_inputs(
    lengths: list[int], head: str, family: str = "one-of", num_labels: int = 3, seed: int = 0
) -> Inputs:
    """Random inputs, of which each is a pair, with targets as the tasks make them."""
    draw = np.random.default_rng(seed)
    ids = [draw.integers(5, VOCAB, length).tolist() for length in lengths]
    types = [[int(i >= draw_split) for i in range(n)] for n in lengths for draw_split in [n // 2]]
    positions = {
        "sequence": [[0] for _ in lengths],
        # Another number of words in each, never the same neighbours.
        "token": [sorted(draw.permutation(n)[: 1 + n // 3].tolist()) for n in lengths],
        "span": [list(range(n)) for n in lengths],
    }[head]
    rows = sum(map(len, positions))
    if head == "span":
        targets = np.array([sorted(draw.integers(0, n, 2)) for n in lengths], dtype=np.int64)
    elif family == "one-of":
        targets = draw.integers(0, num_labels, rows)
    elif family == "any-of":
        targets = draw.integers(0, 2, (rows, num_labels)).astype(np.float32)
    else:
        targets = draw.normal(size=rows).astype(np.float32)
    return join(ids, types, positions, targets)


def run_padded(
    model: PreTrainedModel, inputs: Inputs, samples: list[int], after: int = -1
) -> Padded:
    """Run some inputs as transformers has it: one a row, padded, with a mask.

    Its hidden states are those after so many layers.
    """
    model.set_attn_implementation(exact_attention(model))
    padding = model.config.pad_token_id or 0
    ids, types = (
        pad_sequence([torch.from_numpy(values[i].astype(np.int64)) for i in samples], True, filler)
        for values, filler in (
            (_by_input(inputs.token_ids, inputs), padding),
            (_by_input(inputs.token_types, inputs), 0),
        )
    )
    lengths = torch.from_numpy(inputs.lengths[samples].astype(np.int64))
    real = torch.arange(ids.shape[1]) < lengths[:, None]
    more = {"token_type_ids": types} if family_of(model).takes_token_types else {}
    found = model(input_ids=ids, attention_mask=real.long(), output_hidden_states=True, **more)
    if hasattr(found, "start_logits"):
        outputs = torch.stack([found.start_logits, found.end_logits], dim=-1)[real]
    elif found.logits.ndim == 2:
        outputs = found.logits
    else:
        places = np.split(inputs.output_positions, inputs.output_offsets[1:-1])
        outputs = torch.cat(
            [found.logits[row, places[i].tolist()] for row, i in enumerate(samples)]
        )
    return Padded(outputs, found.hidden_states[after][real])


def _by_input(values: np.ndarray, inputs: Inputs) -> list[np.ndarray]:
    return np.split(values, inputs.offsets[1:-1])
