"""What is known of a student: from its files, and from the folder of the run that made it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from distilcli.cards import history, measured
from distilcli.cards.card import own_metadata
from distilcli.cards.measured import Measured
from distilcli.cards.sources import Source, sources_of
from distilcli.cards.usage import SIMILARITY, Use, use_of
from distilcli.config.embedding import EmbeddingExperiment
from distilcli.config.experiment import BaseExperiment, MaskedLMExperiment, TaskExperiment
from distilcli.config.kinds import AnyExperiment
from distilcli.config.reading import load_any_experiment, load_of_run
from distilcli.config.stages import StagedExperiment
from distilcli.config.tasks import GlueTask, RerankingTask, TextTask
from distilcli.errors import ConfigError
from distilcli.files.json_text import parse_json
from distilcli.hub.model_files import model_files
from distilcli.hub.names import cached_model
from distilcli.models.families import family_of, num_positions
from distilcli.models.loading import read_config
from distilcli.models.sentence_encoders import read_folder
from distilcli.models.weights import weight_paths
from distilcli.training.run_folder import RunFolder


@dataclass(frozen=True)
class Facts:
    """What is known of a student.

    Attributes:
        name: of its run, or of its folder.
        folder: where it lies.
        use: what it is there for.
        shape: what it is, in words.
        max_length: tokens of an input at most.
        known_in_javascript: whether the pipelines of transformers.js take such models.
        experiments: that it was trained by: the stages of its run, by name; one without a name
            where it has no stages; none where nothing is known of a run.
        sources: the models that it comes from, by the keys of the experiment.
        measured: None: nothing was.
        training: lines on how long it was trained, and on what.
        metadata: what an earlier card of it said, and others must not forget.
    """

    name: str
    folder: Path
    use: Use
    shape: str
    max_length: int
    known_in_javascript: bool = True
    experiments: Sequence[tuple[str, AnyExperiment]] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)
    measured: Measured | None = None
    training: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def experiment(self) -> AnyExperiment | None:
        """The one that it was trained by last."""
        return self.experiments[-1][1] if self.experiments else None


def facts_of_folder(folder: Path, measured_by: BaseExperiment | None = None) -> Facts:
    """What is known of any model's folder; of a run's student with all that its run tells.

    Args:
        folder: of the model.
        measured_by: an experiment that may not have made it, and knows what it is asked.

    Raises:
        ModelError: there is no model of transformers in the folder.
    """
    run = RunFolder(folder.absolute().parent)
    if run.experiment.exists() and folder.absolute() == run.student:
        return facts_of_run(run)
    return _facts_of_model(folder, measured_by, was_made_by=False)


def facts_of_run(
    run: RunFolder,
    experiment: AnyExperiment | StagedExperiment | None = None,
    held_out: Mapping[str, float] | None = None,
) -> Facts:
    """What is known of a run's student, by what is in the run folder.

    Args:
        run: has a student.
        experiment: that was run; None: as the run folder has it.
        held_out: what training measured of the student that it chose, as in metrics.jsonl; it is
            taken where `eval` has measured nothing yet.

    Raises:
        ModelError: there is no student that can be read.
        ConfigError: experiment.yaml cannot be read.
    """
    stages = _stages_of(experiment or _experiment_of(run))
    last = stages[-1][1]
    found = measured.from_results(_read(run.results), run.student, last)
    if found is None and held_out:
        found = measured.from_training(held_out, last)
    return replace(
        _facts_of_model(run.student, last),
        name=run.root.absolute().name,
        experiments=stages,
        sources=_sources(run, stages),
        training=_training(run, stages),
        measured=found,
    )


def _experiment_of(run: RunFolder) -> AnyExperiment | StagedExperiment:
    try:
        found = load_any_experiment(run.experiment)
    except ConfigError:  # of an earlier version
        return load_of_run(run.experiment)
    return found


def _stages_of(experiment: AnyExperiment | StagedExperiment) -> list[tuple[str, AnyExperiment]]:
    if isinstance(experiment, StagedExperiment):
        return [(stage.name, stage.experiment) for stage in experiment.stages]
    return [("", experiment)]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _folders_of(run: RunFolder, stages: Sequence[tuple[str, AnyExperiment]]) -> list[RunFolder]:
    """The folder of each stage, where it lies now; of a run without stages its own."""
    if len(stages) == 1 and not stages[0][0]:
        return [run]
    return [RunFolder(run.stages / f"{i}-{name}") for i, (name, _) in enumerate(stages, start=1)]


def _sources(run: RunFolder, stages: Sequence[tuple[str, AnyExperiment]]) -> dict[str, Source]:
    """The models that a student comes from; not the students of the stages in between."""
    found: dict[str, Source] = {}
    folders = _folders_of(run, stages)
    for number, ((name, experiment), folder) in enumerate(zip(stages, folders, strict=True)):
        places = {what: one.place for what, one in (folder.read_identity() or {}).items()}
        for key, source in sources_of(experiment, places).items():
            if not (number and key == "student.model"):
                found[f"{name} {key}".strip()] = source
    return found


def _training(run: RunFolder, stages: Sequence[tuple[str, AnyExperiment]]) -> list[str]:
    lines = []
    folders = _folders_of(run, stages)
    for (name, experiment), folder in zip(stages, folders, strict=True):
        where = f"Stage {name}: " if name else ""
        losses = history.losses_of(experiment)
        if losses:
            lines.append(f"{where}Losses and their weights: {', '.join(losses)}")
        training = history.training_of(folder)
        if training is not None:
            lines.append(
                f"{where}Training: {training.steps:,} steps, {training.tokens:,} tokens, "
                f"{training.seconds:,.0f} s"
            )
    return [*lines, *history.machine_of(folders[-1])]


def _facts_of_model(
    folder: Path, experiment: BaseExperiment | None, was_made_by: bool = True
) -> Facts:
    task = experiment.task if isinstance(experiment, TaskExperiment) else None
    pairs = isinstance(task, TextTask) and task.text_pair is not None
    pairs = pairs or (isinstance(task, GlueTask) and task.name not in ("CoLA", "SST-2"))
    use = use_of(folder, ranks=isinstance(task, RerankingTask), reads_pairs=pairs)
    where = str(folder.absolute())
    config = read_config(where, None, "student")
    family = family_of(config)
    layers = getattr(config, family.settings.num_hidden_layers)
    width = getattr(config, family.settings.hidden_size)
    paths = weight_paths(model_files(where, None, f"student {folder}"))
    shape = (
        f"{family.a_name} of {layers} layers and width {width:,} with {_count(paths):,} parameters"
    )
    said = read_folder(where, None, "student").max_length if use.tag == SIMILARITY else None
    longest = said or (_longest(experiment) if was_made_by else None) or num_positions(config)
    kept = own_metadata(folder)
    cached = cached_model(f"{folder.absolute()}/")
    name = folder.absolute().name if cached is None else cached[0]
    in_javascript = family.known_in_javascript
    return Facts(name, folder, use, shape, longest, in_javascript, metadata=kept)


def _count(paths: Sequence[Path]) -> int:
    """Numbers in the files of a model, of which a tied table is there once."""
    total = 0
    for path in paths:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return total


def _longest(experiment: BaseExperiment | None) -> int | None:
    if isinstance(experiment, MaskedLMExperiment):
        return experiment.data.max_length
    if isinstance(experiment, TaskExperiment | EmbeddingExperiment):
        return experiment.task.max_length
    return None
