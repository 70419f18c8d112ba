"""The card of a student: what it is, what was measured, how it is used and was made, its limits.

run = RunFolder(Path("runs/quickstart"))
write_card(run.student, card_of(facts_of_run(run)))
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distilcli import __version__
from distilcli.cards import history, measured
from distilcli.cards.card import HERE, Card
from distilcli.cards.facts import Facts
from distilcli.cards.sources import Source, data_sets_of, texts
from distilcli.cards.usage import RANKING, SIMILARITY, Use, code_of
from distilcli.config.experiment import TaskExperiment
from distilcli.config.kinds import AnyExperiment

TAGS = ("distilcli", "knowledge-distillation")
_PAPER = "https://arxiv.org/abs/1910.01108"
# How a student starts, and what stands before the model that it is made of, if one is named.
_STARTS = {"copied": "with copied layers", "random": "with random weights", "checkpoint": "from"}
_FROM = {"copied": "of", "random": "in the shape of", "checkpoint": "the checkpoint"}
_MAX_CLASSES = 20  # that are listed


def card_of(facts: Facts) -> Card:
    """The card that says what is known of a student."""
    return Card(metadata_of(facts), body_of(facts))


def body_of(facts: Facts, code: str | None = None, before_use: Sequence[str] = ()) -> str:
    """What people read.

    Args:
        facts: of the student.
        code: how it is used, as a block of code; None: as the student itself is.
        before_use: more paragraphs after the scores.
    """
    parts = [
        f"# {facts.name}",
        _summary(facts),
        "## Scores",
        _scores(facts),
        *before_use,
        "## Use",
        code or f"```python\n{code_of(facts.use, HERE)}\n```",
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(facts)),
        *_made(facts),
    ]
    return "\n\n".join(parts)


def metadata_of(facts: Facts) -> dict[str, Any]:
    """What the hub reads."""
    before, experiment = facts.metadata, facts.experiment
    card = experiment.card if experiment is not None else None
    languages = (card.language if card else []) or texts(before.get("language"))
    licence = (card.license if card else None) or before.get("license")
    bases = [name for one in facts.sources.values() for name in one.repositories]
    data_sets = [name for _, one in facts.experiments for name in data_sets_of(one)]
    own, use = facts.measured, facts.use
    return {
        "language": languages or _said(facts.sources, "language"),
        "license": licence or next(iter(_said(facts.sources, "license")), None),
        "library_name": use.library,
        "pipeline_tag": use.tag,
        "base_model": list(dict.fromkeys(bases)) or before.get("base_model"),
        "datasets": list(dict.fromkeys(data_sets)) or before.get("datasets"),
        "tags": [*TAGS, *_tags(use)],
        "metrics": measured.metric_types(use.tag, own) if own else before.get("metrics"),
        "model-index": (
            measured.model_index(facts.name, use.tag, own) if own else before.get("model-index")
        ),
    }


def _said(sources: Mapping[str, Source], key: str) -> list[str]:
    """What the card of the first teacher says, or of the model that the student starts from."""
    said = (texts(source.metadata.get(key)) for source in sources.values())
    return next((one for one in said if one), [])


def _tags(use: Use) -> list[str]:
    if use.tag == SIMILARITY:
        return ["sentence-transformers", "feature-extraction"]
    return ["cross-encoder", "reranker"] if use.tag == RANKING else []


def _summary(facts: Facts) -> str:
    sources = list(facts.sources.items())
    teachers = [source.in_words for key, source in sources if "teacher" in key]
    shape = f"{facts.shape[0].upper()}{facts.shape[1:]}"
    maker = f"distilcli {__version__}"
    if not facts.experiments:
        return f"{shape}. This card was written by {maker}, which knows nothing of its training."
    if teachers:
        made = f"distilled from {_joined(teachers)}"
    elif facts.experiment is not None and _learns_from_file(facts.experiment):
        made = "trained on a teacher's outputs, which were read from a file"
    else:
        made = "trained on labels alone, without a teacher"
    starts = [source.in_words for key, source in sources if "student" in key]
    kind = facts.experiments[0][1].student.kind
    start = _STARTS[kind] + (f" {_FROM[kind]} {_joined(starts)}" if starts else "")
    return f"{shape}, {made} with {maker}. It started {start}."


def _joined(parts: Sequence[str]) -> str:
    parts = list(dict.fromkeys(parts))
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _learns_from_file(experiment: AnyExperiment) -> bool:
    if not isinstance(experiment, TaskExperiment):
        return False
    return experiment.task.teacher_outputs is not None


def _scores(facts: Facts) -> str:
    own = facts.measured
    if own is None and facts.metadata.get("model-index"):
        return measured.table_of_index(facts.metadata["model-index"])
    if own is None:
        return "It has not been measured: `distilcli eval` does that, and writes this card anew."
    where = own.data["name"]
    if "split" in own.data:
        where += f", {own.data['split']}"
    said = f"On {where}:" if not own.by_training else f"On {where}, while it was trained:"
    return f"{said}\n\n{measured.table_of(facts.use.tag, own)}"


def _limits(facts: Facts) -> list[str]:
    use = facts.use
    lines = [f"Inputs longer than {facts.max_length:,} tokens were not trained on."]
    if use.tag == "fill-mask":
        lines.append(
            "It fills in masked tokens. For anything else it has to be fine-tuned first: its "
            "vectors are no measure of how alike two texts are, and it does not write text."
        )
    elif use.tag == SIMILARITY:
        lines.append("Its vectors say what its teacher's say, and rank texts no better than those.")
    elif use.tag == RANKING:
        lines.append("Its scores order the documents of one query; they are no probabilities.")
    elif use.classes and not use.gives_number:
        named = ", ".join(use.classes[:_MAX_CLASSES])
        more = len(use.classes) - _MAX_CLASSES
        named += f" and {more:,} more" if more > 0 else ""
        lines.append(f"It knows these classes and no others: {named}.")
    if any(one.student.kept_vocabulary is not None for _, one in facts.experiments):
        lines.append(
            "Its vocabulary is a part of its teacher's, chosen by the text of the training: other "
            "text is cut into more and smaller pieces."
        )
    lines.append("It was not tried on text of another kind or language than it was trained on.")
    lines.append(
        "What its teacher and its text have of prejudice and of mistakes is in it as well; a "
        "smaller model may show more of them than its teacher."
    )
    return lines


def _made(facts: Facts) -> list[str]:
    if not facts.experiments:
        return []
    lines = "\n".join(f"- {line}" for line in facts.training)
    settings = history.settings_of(facts.experiments)
    parts = ["## How it was made", lines] if lines else ["## How it was made"]
    parts.append(
        "The experiment; what it leaves out is at its default. Of files and folders outside the "
        "working folder only the names are shown."
    )
    parts.append(f"```yaml\n{settings}```")
    if any("teacher" in key for key in facts.sources):
        parts.append(f"The method goes back to [Sanh et al. 2019]({_PAPER}).")
    return parts
