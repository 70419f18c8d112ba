"""What a student comes from: models and data sets, by their names on the hub where they have one.

Of a folder its name is said, and no more (`files/shown_paths.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distilcli.cards.card import CARD, metadata_of
from distilcli.config.data import HubSource, RowHub
from distilcli.config.experiment import BaseExperiment
from distilcli.config.fields import Section
from distilcli.config.tasks import GlueTask
from distilcli.errors import ModelError
from distilcli.files.paths import resolve_path
from distilcli.files.shown_paths import short_name
from distilcli.hub.model_files import ModelFiles
from distilcli.hub.names import cached_model, may_be_of_hub

GLUE = "nyu-mll/glue"
# Keys of what is measured on, not trained on.
_MEASURED = {"dev", "held_out_sources", "retrieval"}


@dataclass(frozen=True)
class Source:
    """A model that a student was made from or learnt from.

    Attributes:
        shown: what it is called, for people.
        repository: its name on the hub; None: it is a folder.
        commit: of the repository, where that is known.
        metadata: of its own card.
    """

    shown: str
    repository: str | None = None
    commit: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_words(self) -> str:
        """For people, with a link where it is on the hub."""
        if self.repository is None:
            return f"`{self.shown}`"
        link = f"[{self.repository}](https://huggingface.co/{self.repository})"
        return f"{link} (commit {self.commit[:12]})" if self.commit else link

    @property
    def repositories(self) -> list[str]:
        """The hub's names of what it is: its own, else those that it was made of."""
        if self.repository is not None:
            return [self.repository]
        return texts(self.metadata.get("base_model"))


def model_source(name: str, revision: str | None, place: str | None) -> Source:
    """Where a model comes from.

    Args:
        name: as the experiment has it.
        revision: of the hub, likewise.
        place: where its weights were, as the run's identity says; None: it does not.
    """
    cached = None if place is None else cached_model(place)
    folder = Path(resolve_path(name))
    if cached is not None:
        repository, commit = cached
        return Source(repository, repository, commit, _hub_card(repository, commit))
    if place is None and may_be_of_hub(name):
        return Source(name, name, None, _hub_card(name, revision or "main"))
    return Source(short_name(name), metadata=metadata_of(folder / CARD))


def _hub_card(repository: str, revision: str) -> dict[str, Any]:
    """The metadata of a model on the hub; nothing where the hub does not give it now."""
    files = ModelFiles(repository, None, repository, revision)
    try:
        path = files.find(CARD)
    except ModelError:
        return {}
    return {} if path is None else metadata_of(path)


def sources_of(experiment: BaseExperiment, places: Mapping[str, str]) -> dict[str, Source]:
    """The models that an experiment starts from or learns from, by the keys that name them.

    Args:
        experiment: that was run.
        places: where its run found what it depends on, by what that is.
    """
    named: dict[str, tuple[str, str | None]] = {}
    if experiment.teacher is not None:
        for key, one in experiment.teacher.by_key.items():
            named[f"{key}.model"] = (one.model, one.revision)
    if experiment.model_source is not None:
        named[f"student.{experiment.student.source_key}"] = (experiment.model_source, None)
    found = {}
    for key, (name, revision) in named.items():
        found[key] = model_source(name, revision, places.get(f"{key} weights"))
    return found


def data_sets_of(experiment: BaseExperiment) -> list[str]:
    """The hub's names of the data sets that an experiment is trained on, in its order."""
    found = [
        one.hub
        for key, one in _sections(experiment)
        if isinstance(one, HubSource | RowHub) and not _MEASURED.intersection(key.split("."))
    ]
    found = [name for name in found if may_be_of_hub(name)]
    if isinstance(getattr(experiment, "task", None), GlueTask):
        found.append(GLUE)
    return list(dict.fromkeys([*found, *experiment.card.datasets]))


def _sections(section: Section, above: str = "") -> Iterable[tuple[str, Section]]:
    """All sections below one, each with its dotted key."""
    for key in type(section).model_fields:
        value = getattr(section, key)
        for number, one in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(one, Section):
                where = f"{above}.{key}.{number}"
                yield where, one
                yield from _sections(one, where)


def texts(value: Any) -> list[str]:
    """What a card says where it may say one text or a list of them."""
    found = value if isinstance(value, list) else [value]
    return [one for one in found if isinstance(one, str) and one]
