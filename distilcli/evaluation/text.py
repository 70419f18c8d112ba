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
from distilcli.corpus.store import Split, TokenStore
from distilcli.evaluation.held_out import HeldOutScores, held_out_scores
from distilcli.evaluation.result import Table, number, percent
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


@dataclass(frozen=True)
class Text:
    """What models are measured on: a split of a store.

    Attributes:
        split: its sequences.
        store: the store.
        record: which text it is, for programs.
    """

    split: Split
    store: TokenStore
    record: dict[str, Any]

    def title(self, num_masked: int) -> str:
        """Which text it is, for people, with the number of tokens that are masked in it."""
        if "files" not in self.record:
            return f"{num_masked:,} masked held-out tokens"
        return (
            f"{', '.join(self.record['files'])}: {self.record['tokens']:,} tokens in "
            f"{self.record['sequences']:,} sequences, {num_masked:,} tokens of them masked"
        )


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


def table_of(rows: list[Evaluation], title: str) -> Table:
    """One column a model, so that the table fits a terminal."""
    figures = {
        "accuracy": [percent(row.scores.accuracy) for row in rows],
        "retained": [percent(row.retained) for row in rows],
        "loss": [number(row.scores.loss) for row in rows],
        "perplexity": [number(row.scores.perplexity, 2) for row in rows],
        "agreement": [percent(row.scores.agreement) for row in rows],
        "KL to teacher": [number(row.scores.kl) for row in rows],
        "parameters": [f"{row.parameters:,}" for row in rows],
        "MiB": [f"{row.size_mib:.1f}" for row in rows],
    }
    speeds = [row.speed for row in rows if row.speed is not None]
    if speeds:
        figures |= {
            "latency, ms": [f"{speed.latency_ms:.1f}" for speed in speeds],
            "sequences/s": [f"{speed.sequences_per_second:.1f}" for speed in speeds],
        }
    table = [[name, *values] for name, values in figures.items()]
    return Table(title, ["", *(row.name for row in rows)], table)


def lines_of(rows: list[Evaluation]) -> list[str]:
    """How speed was measured, where it was."""
    return [
        f"latency: one sequence of {speed.length} tokens; sequences/s: in batches of "
        f"{speed.batch_size}; CPU, {speed.threads} thread(s), medians"
        for speed in [row.speed for row in rows if row.speed is not None][:1]
    ]
