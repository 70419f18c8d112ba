"""Held-out scores of models that predict no tokens: the means of the losses that they learn by.

A body alone (a sentence encoder, say) has no masked-LM head whose predictions could be scored, and
without masked tokens there is nothing to predict. What can be said of such a student is how far
it is from its teacher on text that neither was shown: by the terms that it is trained with.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from distilcli.batches.masked import PackedBatch, held_out_batches
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.losses import LossConfig
from distilcli.distillation.inner_terms import check_terms
from distilcli.distillation.loss_modules import Distillation
from distilcli.distillation.run_kind import Audience
from distilcli.distillation.teachers import PlacedTeacher
from distilcli.errors import NonFiniteLossError
from distilcli.evaluation.asked import Asked
from distilcli.evaluation.gathering import DIVERGED
from distilcli.evaluation.result import Result, Table, number
from distilcli.evaluation.speed import Speed, measure_speed
from distilcli.evaluation.text import Text
from distilcli.losses.table import MASKED_LM_TERMS, wanted_terms
from distilcli.models.families import is_masked_lm, num_parameters, size_mib
from distilcli.models.inside import shape_of


@dataclass(frozen=True)
class TermMeans:
    """Distances of a student from its teacher on held-out text.

    Attributes:
        loss: the means times the largest weights that the terms ever have, so that the losses of
            all steps can be compared.
        means: of each term, by its name.
    """

    loss: float
    means: dict[str, float]

    @property
    def criterion(self) -> float:
        """By which students are chosen: the loss."""
        return self.loss

    def metrics(self) -> dict[str, float]:
        """As metric keys and values."""
        return {f"held_out/{name}": mean for name, mean in self.record().items()}

    def record(self) -> dict[str, float]:
        """For results.json."""
        return {"loss": self.loss, **self.means}


def predicts_tokens(
    experiment: MaskedLMExperiment, models: Iterable[PreTrainedModel | None]
) -> bool:
    """Whether models can be scored by the tokens that they predict: all have a masked-LM head."""
    has_heads = all(model is None or is_masked_lm(model) for model in models)
    return has_heads and experiment.masking.mlm_probability > 0


@torch.no_grad()
def held_out_means(
    module: Distillation,
    loss: LossConfig,
    batches: Iterable[PackedBatch],
    accelerator: Accelerator,
    name: str = "the student",
) -> TermMeans:
    """The mean of each term, over the batches of all processes; the module's mode is restored.

    Args:
        module: student, teacher and terms; precision is the caller's autocast.
        loss: whose terms they are.
        batches: of this process.
        accelerator: names device and processes.
        name: opens the message of an error.

    Raises:
        NonFiniteLossError: a mean is NaN or infinite.
    """
    was_training = module.training
    module.eval()
    device = accelerator.device
    sums = torch.zeros(2, len(module.terms), dtype=torch.float64, device=device)
    for batch in batches:
        sums += _sums_and_counts(module, batch.to(device))
    module.train(was_training)
    totals, counts = accelerator.reduce(sums, "sum").tolist()
    means = {
        term.name: total / max(count, 1.0)
        for term, total, count in zip(module.terms, totals, counts, strict=True)
    }
    total = sum(loss.weights[term] * mean for term, mean in means.items())
    # Comparisons with NaN are false: such a student would count as the best one so far.
    if not torch.isfinite(torch.tensor(total)):
        raise NonFiniteLossError(
            f"{name}: its held-out loss is {total}: what it or its teacher computes overflows",
            DIVERGED,
        )
    return TermMeans(total, means)


def _sums_and_counts(module: Distillation, batch: PackedBatch) -> Tensor:
    """Of each term over one micro-batch, float64 [2, terms]."""
    ones = [torch.ones((), device=module.student.device) for _ in module.terms]
    found = module(batch, ones).terms.double()
    counts = torch.tensor(module.counts(batch), dtype=torch.float64, device=found.device)
    return torch.stack([found, counts])


def compare_by_terms(
    experiment: MaskedLMExperiment,
    models: dict[str, PreTrainedModel],
    teachers: Sequence[str],
    paths: dict[str, str],
    text: Text,
    asked: Asked,
    accelerator: Accelerator,
    audience: Audience,
) -> Result:
    """Models beside their teacher: held-out means of the terms, size, and speed on the CPU.

    Args:
        experiment: whose losses they are.
        models: by what they are called.
        teachers: what the teachers are called; the terms compare with the first one.
        paths: folder or hub name of each.
        text: that they are measured on.
        asked: how many of its sequences, and whether speed is measured.
        accelerator: names the device.
        audience: told what is measured.

    Raises:
        ConfigError: a term finds nothing to compare in a model.
        NonFiniteLossError: a mean is NaN or infinite.
    """
    speeds: dict[str, Speed] = {}
    if asked.speed is not False:
        audience.note("measuring speed on the CPU")
        speeds = measure_speed(models, text.split)
    found: dict[str, dict[str, Any]] = {}
    left_out: dict[str, list[str]] = {}
    for name, model in models.items():
        scores = None
        if name not in teachers and (text.whole is None or text.teacher_ids is not None):
            audience.note(f"measuring losses of {name}")
            teacher = models[teachers[0]]
            left_out[name] = _learned_terms(experiment.loss, model, teacher)
            loss = _without(experiment.loss, left_out[name])
            means = _means_of(experiment, loss, name, model, teacher, text, asked, accelerator)
            # A sum without some terms would stand beside sums that have them.
            scores = means and (means.means if left_out[name] else means.record())
        found[name] = {
            "path": paths[name],
            "parameters": num_parameters(model),
            "size_mib": size_mib(model),
            "scores": scores,
            "speed": asdict(speeds[name]) if name in speeds else None,
        }
    lines = _lines_of(speeds, left_out)
    return Result(_table_of(found, text), lines, {"text": text.record, "models": found})


def _learned_terms(loss: LossConfig, model: PreTrainedModel, teacher: PreTrainedModel) -> list[str]:
    """Names of terms that compare through a projection which was learned beside a model."""
    if shape_of(model).width == shape_of(teacher).width:
        return []
    return [t.name for t in wanted_terms(MASKED_LM_TERMS, loss, True) if t.needs_one_width]


def _means_of(
    experiment: MaskedLMExperiment,
    loss: LossConfig,
    name: str,
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    text: Text,
    asked: Asked,
    accelerator: Accelerator,
) -> TermMeans | None:
    """By the terms of `loss`; None where it has none with a weight."""
    if not any(loss.weights.values()):
        return None
    check_terms(MASKED_LM_TERMS, loss, model, teacher)
    placed = PlacedTeacher(teacher, text.teacher_ids)
    module = Distillation(model, placed, loss, experiment.seed).to(accelerator.device)
    batches = held_out_batches(
        text.split,
        text.masker,
        asked.num_sequences or len(text.split),
        experiment.train.tokens_per_micro_batch,
        teacher_ids=None if text.teacher_ids is None else text.teacher_ids.numpy(),
    )
    return held_out_means(module, loss, batches, accelerator, name)


def _without(loss: LossConfig, names: Sequence[str]) -> LossConfig:
    """The settings with a weight of 0 for some terms."""
    terms = {name: loss.terms[name].model_copy(update={"weight": 0.0}) for name in names}
    return loss.model_copy(update=terms)


def _table_of(found: dict[str, dict[str, Any]], text: Text) -> Table:
    """One column a model, so that the table fits a terminal."""
    records = list(found.values())
    names = dict.fromkeys(name for record in records for name in record["scores"] or ())
    rows = [
        [name.replace("_", " "), *(number((x["scores"] or {}).get(name), 4) for x in records)]
        for name in names
    ]
    rows += [
        ["parameters", *(f"{record['parameters']:,}" for record in records)],
        ["MiB", *(f"{record['size_mib']:.1f}" for record in records)],
    ]
    speeds = [record["speed"] for record in records if record["speed"] is not None]
    if speeds:
        rows += [
            ["latency, ms", *(f"{speed['latency_ms']:.1f}" for speed in speeds)],
            ["sequences/s", *(f"{speed['sequences_per_second']:.1f}" for speed in speeds)],
        ]
    return Table(text.name, ["", *found], rows)


def _lines_of(speeds: dict[str, Speed], left_out: dict[str, list[str]]) -> list[str]:
    lines = ["losses: means over held-out text, and their sum by the weights of the experiment"]
    lines += [
        f"{name}: without {' and '.join(terms)}, which compare through a projection that was "
        "learned beside the student and is no part of it, and so without the sum"
        for name, terms in left_out.items()
        if terms
    ]
    return [*lines, *(speed.how for speed in [*speeds.values()][:1])]
