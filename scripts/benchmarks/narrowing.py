"""How near narrower students start to their teacher, by several ways of making them.

    python scripts/benchmarks/narrowing.py --config configs/quickstart.yaml --width 192 128
    python scripts/benchmarks/narrowing.py --config configs/reactions.yaml --save starts

The experiment says teacher, layers and data, whose store must be prepared. For each width it prints
the masked-LM loss and accuracy on held-out text of a copy that was made narrower

- by leaving out what counts least,
- likewise, with what is left out predicted by least squares: what distilcli does;
- by rotating hidden states to their principal components, which every projection reads by least
  squares. A normalisation acts on channels and keeps of that the diagonal.

`--save DIR` keeps the students, from which an experiment starts with
`student={kind: checkpoint, model: DIR/192-least-squares}`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distilcli.batches.masked import PackedBatch, held_out_batches
from distilcli.config.models import CopiedStudent
from distilcli.config.reading import load_masked_lm_experiment
from distilcli.distillation.masked_lm_parts import load_teacher
from distilcli.distillation.sample_text import masked_sample
from distilcli.distillation.tokenization import tokenization_of
from distilcli.evaluation.held_out import held_out_masker, held_out_scores
from distilcli.models.attention import use_packed_attention
from distilcli.models.copying import copy_layers
from distilcli.models.layers import layers_of
from distilcli.models.narrowing import narrow as narrowing
from distilcli.models.narrowing.choices import Reading, reading
from distilcli.models.narrowing.moments import Moments
from distilcli.models.narrowing.sizes import Sizes, wanted_sizes
from distilcli.models.narrowing.spaces import RESIDUAL
from distilcli.models.saving import save_model
from distilcli.training.processes import single_accelerator

Way = Callable[[PreTrainedModel, Sizes, list[PackedBatch]], PreTrainedModel]


def by_least_squares(
    model: PreTrainedModel, sizes: Sizes, batches: list[PackedBatch]
) -> PreTrainedModel:
    """What distilcli does."""
    return narrowing.narrow(model, sizes, batches)


def by_leaving_out(
    model: PreTrainedModel, sizes: Sizes, batches: list[PackedBatch]
) -> PreTrainedModel:
    """The same channels and inner states, and nothing in the place of the others."""
    predicted = reading

    def plain(moments: Moments, cut: Tensor, *, centred: bool) -> Reading:
        if cut.is_floating_point():  # inside of heads there is no other way to read
            return predicted(moments, cut, centred=centred)
        matrix = torch.eye(len(moments.mean), dtype=torch.float64)[:, cut]
        return Reading(matrix, torch.zeros_like(moments.mean))

    with mock.patch.object(narrowing, "reading", plain):
        return narrowing.narrow(model, sizes, batches)


def by_principal_components(
    model: PreTrainedModel, sizes: Sizes, batches: list[PackedBatch]
) -> PreTrainedModel:
    """Hidden states in the directions in which they vary most, over all that read them."""
    chosen: dict[str, Tensor] = {}

    def rotate(plan: Any) -> None:
        total = torch.zeros(())
        for name, moments in plan._observed.inputs.items():
            if plan._reads(name) == RESIDUAL:
                second = moments.second(centred=False)
                total = total + second / second.trace()
        _, vectors = torch.linalg.eigh(total)
        plan.cuts[RESIDUAL] = chosen["basis"] = vectors[:, -sizes.hidden_size :].T

    with mock.patch.object(narrowing._Plan, "_cut_hidden_states", rotate):
        found = narrowing.narrow(model, sizes, batches)
    gains = chosen["basis"].square()
    for name, module in found.named_modules():
        if isinstance(module, nn.LayerNorm) and len(module.weight) == sizes.hidden_size:
            gain: Any = model.get_submodule(name).weight
            module.weight.data = (gains @ gain.detach().double()).float()
    return found


WAYS: dict[str, Way] = {
    "leaving-out": by_leaving_out,
    "least-squares": by_least_squares,
    "principal-components": by_principal_components,
}


def main() -> None:
    """Print a line for each width and way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--width", type=int, nargs="+", default=[192, 128])
    parser.add_argument("--heads", type=int, help="of each layer (default: as the teacher)")
    parser.add_argument("--sequences", type=int, default=300, help="held-out ones to measure on")
    parser.add_argument("--save", type=Path)
    asked = parser.parse_args()
    experiment = load_masked_lm_experiment(Path(asked.config), [])
    tokenization = tokenization_of(experiment)
    store, teacher = tokenization.open_store(), load_teacher(experiment)
    assert teacher is not None
    tokenizer = tokenization.tokenizer
    text = masked_sample(
        store.train, store.token_counts, tokenizer, experiment.masking, experiment.seed
    )
    masker = held_out_masker(store, tokenizer, experiment.masking.mlm_probability)
    tokens = experiment.train.tokens_per_micro_batch
    held_out = list(held_out_batches(store.held_out, masker, asked.sequences, tokens))
    student = experiment.student
    assert isinstance(student, CopiedStudent)

    def copy() -> PreTrainedModel:
        return copy_layers(teacher, layers_of(teacher, student), student.architecture)

    def show(name: str, model: PreTrainedModel) -> None:
        use_packed_attention(model)
        scores = held_out_scores(model, None, held_out, single_accelerator())
        print(f"{name:32} loss {scores.loss:.3f}  accuracy {scores.accuracy:.1%}", flush=True)

    show("teacher", teacher)
    show("copied layers", copy())
    for width in asked.width:
        shape = CopiedStudent(hidden_size=width, num_heads=asked.heads)
        sizes = wanted_sizes(copy().config, shape)
        for way, make in WAYS.items():
            model = make(copy(), sizes, text)
            show(f"{width}-{way}", model)
            if asked.save is not None:
                save_model(model, tokenizer, asked.save / f"{width}-{way}")


if __name__ == "__main__":
    main()
