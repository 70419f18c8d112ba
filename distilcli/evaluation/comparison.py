"""Students beside their teacher: quality on text, size, and speed on this machine.

Quality is measured under one fixed mask (`held_out.py`); speed with the plain transformers
forward pass that users will run, on the CPU, the models taking turns.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from accelerate import Accelerator

from distilcli.batches.masked import held_out_batches
from distilcli.batches.masking import Masker
from distilcli.corpus.store import Split
from distilcli.evaluation.held_out import HeldOutScores, held_out_scores
from distilcli.evaluation.speed import Speed, measure_speed
from distilcli.models.attention import use_packed_attention
from distilcli.models.families import MaskedLM, num_parameters, size_mib


@dataclass(frozen=True)
class Evaluation:
    """One model's row.

    Attributes:
        name: folder or hub name.
        parameters: tied ones counted once.
        size_mib: of the weights as they are stored.
        scores: held-out quality.
        retained: accuracy over the teacher's; None without a teacher.
        speed: on this machine's CPU; None where it is not measured.
    """

    name: str
    parameters: int
    size_mib: float
    scores: HeldOutScores
    retained: float | None
    speed: Speed | None

    def record(self) -> dict[str, Any]:
        """For results.json."""
        return {**asdict(self), "perplexity": self.scores.perplexity}


def evaluate(
    models: dict[str, MaskedLM],
    teacher_name: str | None,
    split: Split,
    masker: Masker,
    tokens_per_micro_batch: int,
    accelerator: Accelerator,
    on_note: Callable[[str], None],
    num_sequences: int | None = None,
    with_speed: bool = True,
) -> list[Evaluation]:
    """Measure models on the sequences of a split.

    Args:
        models: by name, all with the vocabulary of the split's store.
        teacher_name: which of them the others are compared with.
        split: the text.
        masker: the fixed mask of that text, see `held_out_masker`.
        tokens_per_micro_batch: tokens in one forward pass, at most.
        accelerator: names the device that quality is measured on.
        on_note: told what is being measured.
        num_sequences: sequences to measure quality on, evenly spaced; None: all.
        with_speed: measure speed too.

    Raises:
        NonFiniteLossError: a model's loss is NaN or infinite.
    """
    speeds: dict[str, Speed] = {}
    if with_speed:
        on_note("measuring speed on the CPU")
        speeds = measure_speed(models, split)
    teacher = models[teacher_name] if teacher_name else None
    scores = {}
    for name, model in models.items():
        on_note(f"measuring quality of {name}")
        use_packed_attention(model.to(accelerator.device))
        if teacher is not None:
            use_packed_attention(teacher.to(accelerator.device))
        batches = held_out_batches(
            split, masker, num_sequences or len(split), tokens_per_micro_batch
        )
        scores[name] = held_out_scores(model, teacher, batches, accelerator, name)
    reference = scores[teacher_name].accuracy if teacher_name else None
    return [
        Evaluation(
            name=name,
            parameters=num_parameters(model),
            size_mib=size_mib(model),
            scores=scores[name],
            retained=scores[name].accuracy / reference if reference else None,
            speed=speeds.get(name),
        )
        for name, model in models.items()
    ]
