"""Options that several commands share, and the experiment that a command line names.

Only the standard library and Typer are imported here, so that `--help` answers at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distilcli.errors import ConfigError
from distilcli.files.paths import is_override, option_path

if TYPE_CHECKING:
    from distilcli.cli.console import Console
    from distilcli.cli.push import Push
    from distilcli.config.experiment import MaskedLMExperiment
    from distilcli.config.kinds import AnyExperiment
    from distilcli.config.stages import StagedExperiment
    from distilcli.evaluation.asked import Asked

# What can be written and printed; tests hold them to the files and sections that there are.
TASK_TEMPLATES = (
    "classification",
    "multi-label",
    "regression",
    "reranking",
    "tagging",
    "question-answering",
)
TEMPLATES = (
    "quickstart",
    "masked-lm",
    *TASK_TEMPLATES,
    "unlabelled",
    "embedding",
    "stages",
    "suite",
)
SCHEMAS = ("masked-lm", "task", "embedding", "suite", "ablation", "stages")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="Experiment file (YAML).")
]
RunConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="Experiment file (default: that of the run)."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Settings to use instead of the file's."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Leave out rows of a task that cannot be used.")
]
TextOption = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Measure on this text instead of held-out text; may be repeated.",
    ),
]
DocumentsOption = Annotated[
    str | None,
    typer.Option(
        "--documents",
        metavar="KIND",
        help="What one document of --text is: file, line or blank-line (default: as the run).",
    ),
]
DevOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dev",
        metavar="FILE",
        help="Measure on these examples instead of the task's; may be repeated.",
    ),
]
PushOption = Annotated[
    str | None,
    typer.Option(
        "--push-to-hub",
        metavar="ORG/NAME",
        help="Send the result to this repository on the hub, private if it is new.",
    ),
]
PublicOption = Annotated[
    bool, typer.Option("--public", help="Let everyone see what is sent to the hub.")
]


def names_and_overrides(words: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The models among the words of a command line, and the overrides."""
    given = words or []
    overrides = [word for word in given if is_override(word)]
    names = [option_path("MODEL", word) for word in given if not is_override(word)]
    return names, overrides


def other_data(text: list[str] | None, documents: str | None, dev: list[str] | None) -> "Asked":
    """What --text, --documents and --dev ask to measure on.

    Raises:
        ConfigError: a path cannot be one, or --documents is no kind of document.
    """
    from distilcli.evaluation.asked import Asked

    files = tuple(option_path("--text", word) for word in text or [])
    rows = tuple(option_path("--dev", word) for word in dev or [])
    if documents not in (None, "file", "line", "blank-line"):
        raise ConfigError(f"--documents {documents}: not file, line or blank-line")
    return Asked(text=files, documents=documents, dev=rows)


def push_words(repository: str | None, public: bool) -> list[str]:
    """The options about the hub as they are typed."""
    words = [] if repository is None else ["--push-to-hub", repository]
    return [*words, "--public"] if public else words


def push_of(repository: str | None, public: bool, console: "Console") -> "Push | None":
    """The upload that is asked for, if one is.

    Raises:
        ConfigError: --public stands alone.
    """
    if repository is None:
        if public:
            raise ConfigError("--public says who sees what --push-to-hub sends", "Give both.")
        return None
    from distilcli.cli.push import Push

    return Push(repository, public, console)


def config_path(config: Path) -> Path:
    """The experiment file that --config names."""
    return Path(option_path("--config", str(config)))


def named_masked_lm(config: Path, overrides: Sequence[str] | None) -> "MaskedLMExperiment":
    """The experiment of masked-LM training that --config names; of several stages the first."""
    from distilcli.config import reading
    from distilcli.config.stages import StagedExperiment

    config = config_path(config)
    experiment = reading.load_any_experiment(config, overrides)
    if isinstance(experiment, StagedExperiment):
        experiment = experiment.stages[0].experiment
    return reading.masked_lm_only(experiment, config)


def named_experiment(
    config: Path, overrides: Sequence[str] | None, skip_bad_rows: bool
) -> tuple["AnyExperiment | StagedExperiment", list[str]]:
    """The experiment that --config names, which may have several stages, and its overrides.

    Args:
        config: as it was typed.
        overrides: `key.sub=value`.
        skip_bad_rows: whether to add the override that --skip-bad-rows is short for.

    Raises:
        ConfigError: see `reading.load_experiment`; or rows are to be skipped, and there is no task.
    """
    from distilcli.config import reading
    from distilcli.config.experiment import MaskedLMExperiment
    from distilcli.config.stages import StagedExperiment

    words = list(overrides or [])
    config = config_path(config)
    experiment = reading.load_any_experiment(config, words)
    if skip_bad_rows:
        if isinstance(experiment, StagedExperiment):
            tasks = experiment.places_of_tasks
        else:
            tasks = [] if isinstance(experiment, MaskedLMExperiment) else [""]
        if not tasks:
            raise ConfigError(f"--skip-bad-rows: {config} is not on a task")
        words += [f"{place}task.skip_bad_rows=true" for place in tasks]
        experiment = reading.load_any_experiment(config, words)
    return experiment, words
