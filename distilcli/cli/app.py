"""The commands. Each is thin: it reads the experiment, calls one function, prints the result.

Only the standard library and Typer are imported here; the rest inside the commands, so that
`--help` answers at once.
"""

import functools
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distilcli import __version__
from distilcli.cli import guard
from distilcli.errors import ConfigError, Interrupted
from distilcli.files.paths import is_override, option_output, option_path

if TYPE_CHECKING:
    from distilcli.config.experiment import Experiment, TaskExperiment

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Experiment file (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Settings to override.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Leave out rows of a task that cannot be used.")
]
NumProcOption = Annotated[
    int | None,
    typer.Option("--num-proc", min=1, max=1024, help="Processes that tokenise; all cores."),
]


def main() -> None:
    """Run the command line; every error becomes one line and an exit code."""
    sys.exit(guard.run(app, sys.argv[1:]))


def _load(config: Path, overrides: list[str] | None) -> "Experiment":
    from distilcli.config.reading import load

    return load(_config_path(config), overrides)


def _config_path(config: Path) -> Path:
    return Path(option_path("--config", str(config)))


def _load_any(
    config: Path, overrides: list[str] | None, skip_bad_rows: bool
) -> tuple["Experiment | TaskExperiment", list[str]]:
    """The experiment, and the overrides with what --skip-bad-rows is short for."""
    from distilcli.config.experiment import TaskExperiment
    from distilcli.config.reading import load_any

    words = list(overrides or [])
    config = _config_path(config)
    experiment = load_any(config, words)
    if skip_bad_rows:
        if not isinstance(experiment, TaskExperiment):
            raise ConfigError(f"--skip-bad-rows: {config} is not on a task")
        words.append("task.skip_bad_rows=true")
        experiment = load_any(config, words)
    return experiment, words


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Compress BERT into DistilBERT-style students."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command("prepare")
def prepare_(
    config: ConfigOption,
    overrides: Overrides = None,
    num_proc: NumProcOption = None,
    skip_bad_rows: SkipOption = False,
    json_output: JsonOption = False,
) -> None:
    """Turn the experiment's text into its token store; or check every row of its task."""
    with guard.console(json_output, f"preparing the data of {config}") as console:
        experiment, _ = _load_any(config, overrides, skip_bad_rows)
        from distilcli.cli import prepare

        with guard.stopping(guard.GO_ON, guard.typed):
            prepare.run(experiment, num_proc or os.cpu_count() or 1, console)


@app.command("init-student")
def init_student_(
    overrides: Overrides = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Experiment file (YAML).")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Teacher to copy from, instead of --config.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the student, with --teacher.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Teacher layers to copy, such as 0,2,4.")
    ] = None,
    num_layers: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Depth of the student; half the teacher's.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="alternate, spread, top or bottom; alternate.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a student that is there.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Build the student from the teacher and show what was copied."""
    with guard.console(json_output, "making a student") as console:
        from distilcli.cli import init_student

        alone = {"--output": output, "--layers": layers, "--num-layers": num_layers}
        alone |= {"--strategy": strategy}
        if config is not None and teacher is None:
            given = [name for name, value in alone.items() if value is not None]
            if given:
                raise ConfigError(f"{given[0]} goes with --teacher, not with --config")
            init_student.run(_load(config, overrides), force, console)
        elif teacher is not None and config is None and output is not None:
            if overrides:
                raise ConfigError(
                    f"{overrides[0]!r}: overrides go with --config", _as_option(overrides[0])
                )
            teacher, output = option_path("--teacher", teacher), option_output("--output", output)
            init_student.run_without_experiment(
                teacher, output, layers, num_layers, strategy, force, console
            )
        else:
            raise ConfigError("give either --config FILE, or --teacher MODEL and --output DIR")


def _as_option(override: str) -> str:
    """What to write instead of an override where there is no experiment."""
    key, _, value = override.partition("=")
    layers = "--layers" if value.startswith("[") else "--strategy"
    names = {"student.layers": layers, "student.num_layers": "--num-layers"}
    if key in names:
        return f"Give {names[key]} {value.strip('[]').replace(' ', '')}"
    return "Without an experiment there are --layers, --num-layers and --strategy."


@app.command("train")
def train_(
    config: ConfigOption,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint, or start.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove what ran in the run folder and start again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, run two steps, write nothing.")
    ] = False,
    profile: Annotated[
        int | None,
        typer.Option(
            "--profile", min=1, max=10_000, help="Take that many steps, write only their trace."
        ),
    ] = None,
    skip_bad_rows: SkipOption = False,
    json_output: JsonOption = False,
) -> None:
    """Distil a student: prepare and initialise what is missing, then train."""
    with guard.console(json_output, f"training with {config}") as console:
        experiment, overrides = _load_any(config, overrides, skip_bad_rows)
        if resume and force:
            raise ConfigError("--resume and --force exclude each other")
        if dry_run and profile:
            raise ConfigError("--dry-run and --profile exclude each other")
        from distilcli.cli import train

        if dry_run:
            train.dry_run(experiment, console)
            return
        if profile:
            train.profile(experiment, profile, console)
            return
        go_on = functools.partial(resume_command, config, overrides)
        try:
            with guard.stopping(guard.GO_ON, go_on):
                train.run(experiment, resume=resume, force=force, console=console)
        except Interrupted as interrupted:
            interrupted.hint = go_on()
            raise


def resume_command(config: Path, overrides: list[str]) -> str:
    """What to type to go on, launched as this run was; on several hosts, what to type on one."""
    command = ["distilcli"]
    comment = ""
    if (processes := os.environ.get("LOCAL_WORLD_SIZE")) is not None:
        command = ["torchrun", "--nproc_per_node", processes, "-m", "distilcli"]
        if (hosts := os.environ.get("GROUP_WORLD_SIZE", "1")) != "1":
            place = ["--nnodes", hosts, "--node_rank", os.environ["GROUP_RANK"]]
            place += ["--master_addr", os.environ["MASTER_ADDR"]]
            place += ["--master_port", os.environ["MASTER_PORT"]]
            command[1:1] = place
            comment = "  # and on every other host, with its own --node_rank"
    words = [*command, "train", "--config", str(config), *overrides, "--resume"]
    return shlex.join(words) + comment


@app.command("eval")
def evaluate_(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL|RUN]... [KEY.SUB=VALUE]...",
            help="Folders or hub names to evaluate (the experiment's run without), and overrides.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Experiment file; a run folder brings its own."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write results.json; the run folder.")
    ] = None,
    num_sequences: Annotated[
        int | None,
        typer.Option(
            "--num-sequences",
            min=1,
            max=2**31 - 1,
            help="Sequences of text to look at, or inputs of a task to time (default: all).",
        ),
    ] = None,
    speed: Annotated[
        bool | None,
        typer.Option(
            "--speed/--no-speed",
            help="Measure speed too (default: on text; not on a task, where it takes the longest).",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text", help="Measure on this text instead of held-out text; may be repeated."
        ),
    ] = None,
    documents: Annotated[
        str | None,
        typer.Option(
            "--documents",
            help="What one document of --text is: file, line or blank-line (default: as the run).",
        ),
    ] = None,
    dev: Annotated[
        list[str] | None,
        typer.Option(
            "--dev", help="Measure on these examples instead of the task's; may be repeated."
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", help="Fine-tune and distil on tasks: glue, imdb, squad, tokens or a file."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the suite's data; the hub without.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Pretrained teacher of a suite, or to compare with on --text "
            "(default: that of the run)."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, max=1000, help="Seeds of each run of a suite; 5."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, max=1024, help="Runs of a suite at a time; one a GPU, else one."
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure students beside their teacher: on held-out text, on a task, or on a suite of them."""
    with guard.console(json_output, "evaluating") as console:
        given = models or []
        overrides = [word for word in given if is_override(word)]
        names = [option_path("MODEL", word) for word in given if not is_override(word)]
        output = None if output is None else option_output("--output", output)
        config = None if config is None else _config_path(config)
        data = None if data is None else Path(option_path("--data", str(data)))
        teacher = None if teacher is None else option_path("--teacher", teacher)
        suite = None if suite is None else option_path("--suite", suite)
        text = [option_path("--text", word) for word in text or []] or None
        dev = [option_path("--dev", word) for word in dev or []] or None
        if suite is not None:
            from distilcli.cli import suite as suite_command

            of_runs: dict[str, object] = {"--config": config, "--num-sequences": num_sequences}
            of_runs |= {"--speed": speed, "--text": text, "--documents": documents, "--dev": dev}
            if wrong := [name for name, value in of_runs.items() if value is not None]:
                raise ConfigError(f"{wrong[0]} does not go with --suite")
            wanted = suite_command.Wanted(suite, data, names, teacher, seeds or 5, jobs, output)
            try:
                suite_command.run(wanted, overrides, console)
            except Interrupted as interrupted:
                interrupted.hint = guard.typed()
                raise
            return
        of_suites = {"--data": data, "--seeds": seeds, "--jobs": jobs}
        if wrong := [name for name, value in of_suites.items() if value is not None]:
            raise ConfigError(f"{wrong[0]} goes with --suite")
        if documents not in (None, "file", "line", "blank-line"):
            raise ConfigError(f"--documents {documents}: not file, line or blank-line")
        if teacher is not None and not text:
            raise ConfigError("--teacher goes with --suite or --text")
        from distilcli.cli import evaluate
        from distilcli.cli.evaluated import Wanted
        from distilcli.evaluation.asked import Asked

        asked = Asked(
            text=tuple(text or ()),
            documents=documents,
            dev=tuple(dev or ()),
            teacher=teacher,
            num_sequences=num_sequences,
            speed=speed,
        )
        evaluate.run(Wanted(names, asked, config, tuple(overrides), output), console)
