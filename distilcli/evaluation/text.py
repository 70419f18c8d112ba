"""Students beside their teacher: quality on text, size, and speed on this machine.

Quality is measured under one fixed mask (`held_out.py`); speed with the plain transformers
forward pass that users will run, on the CPU, the models taking turns.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from distilcli.batches.masked import held_out_batches
from distilcli.batches.masking import Masker
from distilcli.corpus.store import Split, TokenStore
from distilcli.evaluation.asked import ALL_TEACHERS
from distilcli.evaluation.calibration import RELIABILITY_TITLES
from distilcli.evaluation.held_out import HeldOutScores, MixedModels, held_out_scores
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
        masker: the fixed mask, see `held_out_masker`.
        characters: of each token, int [vocab].
        whole: the same text as a teacher reads it, where the students have a part of its
            vocabulary; None: all read the same tokens.
        teacher_ids: that teacher's id of each of the students' tokens, where the store has what is
            needed to compare with it; int [vocab].
    """

    split: Split
    store: TokenStore
    record: dict[str, Any]
    masker: Masker
    characters: Tensor
    whole: "Text | None" = None
    teacher_ids: Tensor | None = None

    @property
    def name(self) -> str:
        """Which text it is, for people."""
        if "files" not in self.record:
            return f"{int(self.split.lengths.sum()):,} held-out tokens"
        return (
            f"{', '.join(self.record['files'])}: {self.record['tokens']:,} tokens in "
            f"{self.record['sequences']:,} sequences"
        )

    def title(self, num_masked: int) -> str:
        """Which text it is, for people, with the number of tokens that are masked in it."""
        if "files" not in self.record:
            return f"{num_masked:,} masked held-out tokens"
        return f"{self.name}, {num_masked:,} tokens of them masked"


def evaluate(
    models: dict[str, MaskedLM],
    teachers: Sequence[str],
    text: Text,
    tokens_per_micro_batch: int,
    accelerator: Accelerator,
    on_note: Callable[[str], None],
    num_sequences: int | None = None,
    with_speed: bool = True,
    shares: Sequence[float] = (),
) -> list[Evaluation]:
    """Measure models on the sequences of a text.

    Args:
        models: by name, all with the vocabulary of the text's store, but for a teacher with a
            larger one.
        teachers: which of them are teachers; with the first one the others are compared.
        text: the text.
        tokens_per_micro_batch: tokens in one forward pass, at most.
        accelerator: names the device that quality is measured on.
        on_note: told what is being measured.
        num_sequences: sequences to measure quality on, evenly spaced; None: all.
        with_speed: measure speed too.
        shares: of each teacher in the mean of several, which is then measured too.

    Raises:
        NonFiniteLossError: a model's loss is NaN or infinite.
    """
    speeds: dict[str, Speed] = {}
    if with_speed:
        on_note("measuring speed on the CPU")
        speeds = measure_speed(models, text.split)
    teacher = models[teachers[0]] if teachers else None
    measured = _with_mean(models, teachers, shares)
    scores = {}
    for name, members in measured.items():
        on_note(f"measuring quality of {name}")
        own, beside = text, teacher
        if text.whole is not None and (name in teachers or name == ALL_TEACHERS):
            own, beside = text.whole, None if members == [teacher] else teacher
        elif text.whole is not None and text.teacher_ids is None:
            beside = None
        model = members[0] if len(members) == 1 else MixedModels(members, shares)
        scores[name] = scores_on_text(
            name, model, beside, own, accelerator, num_sequences, tokens_per_micro_batch
        )
    # Of other tokens, shares of right ones say nothing.
    has_reference = teacher is not None and text.whole is None
    reference = scores[teachers[0]].accuracy if has_reference else None
    return [
        Evaluation(
            name=name,
            parameters=sum(map(num_parameters, members)),
            size_mib=sum(map(size_mib, members)),
            scores=scores[name],
            retained=scores[name].accuracy / reference if reference else None,
            speed=speeds.get(name),
        )
        for name, members in measured.items()
    ]


def _with_mean(
    models: dict[str, MaskedLM], teachers: Sequence[str], shares: Sequence[float]
) -> dict[str, list[MaskedLM]]:
    """What is measured, by name: the models, and the mean of all teachers after the last one."""
    found = {name: [models[name]] for name in teachers}
    if len(shares) > 1:
        found[ALL_TEACHERS] = [models[name] for name in teachers]
    return found | {name: [model] for name, model in models.items()}


def scores_on_text(
    name: str,
    model: MaskedLM | MixedModels,
    teacher: MaskedLM | None,
    text: Text,
    accelerator: Accelerator,
    num_sequences: int | None,
    tokens_per_micro_batch: int,
) -> HeldOutScores:
    """Held-out scores of one model, which is moved to the device and switched to packed attention.

    Args:
        name: opens the message of an error.
        model: reads the tokens of the text.
        teacher: it is compared with; None: with none.
        text: the text.
        accelerator: names the device.
        num_sequences: sequences of the text, evenly spaced; None: all.
        tokens_per_micro_batch: tokens in one forward pass, at most.

    Raises:
        NonFiniteLossError: see `held_out_scores`.
    """
    members = model.models if isinstance(model, MixedModels) else [model]
    for one in (*members, teacher):
        if one is not None:
            use_packed_attention(one.to(accelerator.device))
    batches = held_out_batches(
        text.split,
        text.masker,
        num_sequences or len(text.split),
        tokens_per_micro_batch,
        teacher_ids=None if text.teacher_ids is None else text.teacher_ids.numpy(),
    )
    return held_out_scores(
        model,
        teacher,
        batches,
        accelerator,
        name,
        teacher_ids=text.teacher_ids,
        characters=text.characters,
    )


def table_of(rows: list[Evaluation], text: Text) -> Table:
    """One column a model, so that the table fits a terminal."""
    # Of one tokenizer, the loss by tokens says as much.
    by_characters = {"loss a character": [number(row.scores.loss_per_character) for row in rows]}
    figures = {
        "accuracy": [percent(row.scores.accuracy) for row in rows],
        "retained": [percent(row.retained) for row in rows],
        "loss": [number(row.scores.loss) for row in rows],
        "perplexity": [number(row.scores.perplexity, 2) for row in rows],
        **({} if text.whole is None else by_characters),
        "agreement": [percent(row.scores.agreement) for row in rows],
        **{
            title: [percent(getattr(row.scores, key)) for row in rows]
            for key, title in RELIABILITY_TITLES.items()
        },
        "KL to teacher": [number(row.scores.kl) for row in rows],
        "parameters": [f"{row.parameters:,}" for row in rows],
        "MiB": [f"{row.size_mib:.1f}" for row in rows],
    }
    if any(row.speed is not None for row in rows):
        speeds = [row.speed for row in rows]
        figures |= {
            "latency, ms": ["-" if one is None else f"{one.latency_ms:.1f}" for one in speeds],
            "sequences/s": [
                "-" if one is None else f"{one.sequences_per_second:.1f}" for one in speeds
            ],
        }
    table = [[name, *values] for name, values in figures.items()]
    title = text.title(rows[0].scores.num_masked)
    return Table(title, ["", *(row.name for row in rows)], table)


def lines_of(rows: list[Evaluation], text: Text) -> list[str]:
    """How speed was measured, where it was."""
    lines = [speed.how for speed in [row.speed for row in rows if row.speed is not None][:1]]
    if lines and text.whole is not None:
        lines.append("as many tokens are less text for a model with a smaller vocabulary")
    return lines
