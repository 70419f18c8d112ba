"""The commands of a run: `prepare`, `init-student` and `train`, as they are typed.

Each reads the experiment and calls one function of the module that does the work, which is imported
only then, so that `--help` answers at once.
"""

import functools
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from distilcli.cli import guard
from distilcli.cli.launch import resume_command
from distilcli.cli.options import (
    ConfigOption,
    JsonOption,
    Overrides,
    PublicOption,
    PushOption,
    SkipOption,
    named_experiment,
    named_masked_lm,
    push_of,
    push_words,
)
from distilcli.errors import ConfigError, Interrupted
from distilcli.files.paths import option_output, option_path

NumProcOption = Annotated[
    int | None,
    typer.Option(
        "--num-proc",
        min=1,
        max=1024,
        metavar="N",
        help="Processes that tokenise (default: one for each core).",
    ),
]


def prepare(
    config: ConfigOption,
    overrides: Overrides = None,
    num_proc: NumProcOption = None,
    skip_bad_rows: SkipOption = False,
    json_output: JsonOption = False,
) -> None:
    """Turn text into tokens, or check the rows of a task.

    The tokens are stored in the folder that data.store names. Parts of the text that are done are
    skipped, so the same command goes on after an interruption.
    """
    with guard.console(json_output, f"preparing the data of {config}") as console:
        experiment, _ = named_experiment(config, overrides, skip_bad_rows)
        from distilcli.cli import prepare as command
        from distilcli.cli import stages
        from distilcli.config.stages import StagedExperiment

        num_proc = num_proc or os.cpu_count() or 1
        with guard.stopping(guard.GO_ON, guard.typed):
            if isinstance(experiment, StagedExperiment):
                stages.prepare(experiment, num_proc, console)
            else:
                command.run(experiment, num_proc, console)


def init_student(
    overrides: Overrides = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Experiment file (YAML)."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Teacher to copy from, instead of --config."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the student, with --teacher.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Teacher layers to copy, such as 0,2,4."),
    ] = None,
    num_layers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Layers of the student (default: half as many as the teacher has).",
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which layers to copy: alternate, spread, top or bottom (default: alternate).",
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the student is: auto, distilbert or same (default: auto).",
        ),
    ] = None,
    hidden_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**16,
            metavar="N",
            help="Width of the student's hidden states; needs --text (default: the teacher's).",
        ),
    ] = None,
    num_heads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**16,
            metavar="N",
            help="Attention heads of a layer; needs --text (default: as many as fit).",
        ),
    ] = None,
    intermediate_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**16,
            metavar="N",
            help="Width inside feed-forward networks; needs --text (default: in proportion).",
        ),
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**24,
            metavar="N",
            help="Keep at most N tokens of the vocabulary (default: all).",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="Keep the pieces that occur in this text, or cut widths by it; may be repeated.",
        ),
    ] = None,
    min_count: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**31 - 1,
            metavar="N",
            help="How often a piece must occur in --text to be kept (default: 1).",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a student that is there.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Make the student from layers of the teacher.

    It shows which layer came from where, the size of both models, and their loss on held-out text
    before training.
    """
    with guard.console(json_output, "making a student") as console:
        from distilcli.cli import init_student as command
        from distilcli.cli.smaller_vocabulary import WantedVocabulary

        alone: dict[str, object] = {
            "--output": output,
            "--layers": layers,
            "--num-layers": num_layers,
        }
        alone |= {"--strategy": strategy, "--architecture": architecture}
        widths = {"hidden_size": hidden_size, "num_heads": num_heads}
        widths |= {"intermediate_size": intermediate_size}
        alone |= {f"--{name.replace('_', '-')}": value for name, value in widths.items()}
        alone |= {"--vocabulary": vocabulary, "--text": text or None, "--min-count": min_count}
        if config is not None and teacher is None:
            given = [name for name, value in alone.items() if value is not None]
            if given:
                raise ConfigError(f"{given[0]} can only be used with --teacher, not with --config")
            command.run(named_masked_lm(config, overrides), force, console)
        elif teacher is not None and config is None and output is not None:
            if overrides:
                raise ConfigError(
                    f"{overrides[0]!r}: overrides can only be used with --config",
                    _as_option(overrides[0]),
                )
            teacher, output = option_path("--teacher", teacher), option_output("--output", output)
            files = [option_path("--text", word) for word in text or []]
            wanted = WantedVocabulary(vocabulary, files, min_count)
            command.run_without_experiment(
                teacher,
                output,
                layers,
                num_layers,
                strategy,
                architecture,
                widths,
                wanted,
                force,
                console,
            )
        else:
            raise _wrong_choice(config, teacher)


def _wrong_choice(config: Path | None, teacher: str | None) -> ConfigError:
    """What is too much, or missing, of --config, --teacher and --output."""
    if config is not None:
        return ConfigError("--config and --teacher cannot be used together", "Leave one out.")
    if teacher is not None:
        return ConfigError("--output is missing", "Give --output DIR, a folder for the student.")
    return ConfigError(
        "no teacher is named", "Give --config FILE, or --teacher MODEL and --output DIR."
    )


def _as_option(override: str) -> str:
    """What to write instead of an override where there is no experiment."""
    key, _, value = override.partition("=")
    layers = "--layers" if value.startswith("[") else "--strategy"
    names = {"student.layers": layers, "student.num_layers": "--num-layers"}
    names["student.architecture"] = "--architecture"
    for name in ("hidden_size", "num_heads", "intermediate_size"):
        names[f"student.{name}"] = f"--{name.replace('_', '-')}"
    names["student.vocabulary.keep"] = "--vocabulary"
    names["student.vocabulary.min_count"] = "--min-count"
    if key in names:
        return f"Give {names[key]} {value.strip('[]').replace(' ', '')}"
    return (
        "Without an experiment there are --layers, --num-layers, --strategy, --architecture and "
        "--vocabulary."
    )


def train(
    config: ConfigOption,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint, or start.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove what ran in the run folder and start again.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, run two steps, write nothing; needs distilcli prepare first.",
        ),
    ] = False,
    profile: Annotated[
        int | None,
        typer.Option(
            "--profile",
            min=1,
            max=10_000,
            metavar="N",
            help="Take N steps, and write nothing but their trace.",
        ),
    ] = None,
    skip_bad_rows: SkipOption = False,
    push_to_hub: PushOption = None,
    public: PublicOption = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Write the page that distilcli report makes, at the end."),
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Train the student, and first make whatever is missing.

    It prepares the data and makes the student where that was not done before. It runs plain, under
    torchrun and under accelerate launch. After a signal it writes a checkpoint and prints the
    command that goes on.
    """
    with guard.console(json_output, f"training with {config}") as console:
        experiment, overrides = named_experiment(config, overrides, skip_bad_rows)
        if resume and force:
            raise ConfigError("--resume and --force cannot be used together")
        if dry_run and profile:
            raise ConfigError("--dry-run and --profile cannot be used together")
        words, push = push_words(push_to_hub, public), push_of(push_to_hub, public, console)
        words += ["--report"] if report else []
        go_on = functools.partial(resume_command, config, [*overrides, *words])
        if report:
            from distilcli.cli import report as reports

            reports.check_at_start(experiment.run_folder)
            written = functools.partial(reports.write_at_end, experiment.run_folder, console)
        command = _training_of(experiment)
        if dry_run:
            if push is not None:
                push.check(experiment, may_create=False)
            command.dry_run(experiment, console)
            return
        if profile:
            command.profile(experiment, profile, console)
            return
        try:
            with guard.stopping(guard.GO_ON, go_on):
                command.run(
                    experiment,
                    resume=resume,
                    force=force,
                    console=console,
                    push=push,
                    at_end=written if report else dict,
                )
        except Interrupted as interrupted:
            interrupted.hint = go_on()
            raise


def _training_of(experiment: Any) -> Any:
    """The module that trains an experiment: with one stage or with several."""
    from distilcli.cli import stages
    from distilcli.cli import train as one_run
    from distilcli.config.stages import StagedExperiment

    return stages if isinstance(experiment, StagedExperiment) else one_run


def push(
    model: Annotated[
        str, typer.Argument(metavar="RUN|FOLDER", help="The run, or the folder of a model.")
    ],
    repository: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="Its name on the hub, which may be new.")
    ],
    public: PublicOption = False,
    json_output: JsonOption = False,
) -> None:
    """Send a student and its card to the hub.

    It goes into one commit of a repository that is private unless you say otherwise. What the hub
    has already is not sent again, so that the same command takes up an upload that was cut off.
    """
    with guard.console(json_output, f"sending {model} to the hub") as console:
        from distilcli.cli import push as command

        wanted = command.Push(repository, public, console)
        command.run(option_path("RUN|FOLDER", model), wanted, console)
