"""The commands that run models: `eval`, `predict` and `suite`, as they are typed.

Each calls one function of the module that does the work, which is imported only then.
"""

import functools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from distilcli.cli import guard
from distilcli.cli.launch import relaunched
from distilcli.cli.options import (
    DevOption,
    DocumentsOption,
    JsonOption,
    RunConfigOption,
    TextOption,
    config_path,
    names_and_overrides,
    other_data,
)
from distilcli.errors import ConfigError, Interrupted
from distilcli.files.paths import option_output, option_path

BUILTIN_SUITES = ("glue", "imdb", "squad", "tokens")


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL|RUN]... [KEY.SUB=VALUE]...",
            help="Folders or hub names to measure (default: the experiment's run), and settings "
            "to use instead of the file's.",
        ),
    ] = None,
    config: RunConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder to write results.json to (default: the run folder)."
        ),
    ] = None,
    num_sequences: Annotated[
        int | None,
        typer.Option(
            "--num-sequences",
            min=1,
            max=2**31 - 1,
            metavar="N",
            help="Sequences of text to look at, or inputs of a task to time (default: all).",
        ),
    ] = None,
    speed: Annotated[
        bool | None,
        typer.Option(
            "--speed/--no-speed",
            help="Measure speed too: of models of text on the CPU (default: yes), on a task on CPU "
            "and GPU (default: no, for it takes the longest).",
            show_default=False,
        ),
    ] = None,
    text: TextOption = None,
    documents: DocumentsOption = None,
    dev: DevOption = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Teacher to compare with on --text (default: that of the run)."
        ),
    ] = None,
    # These went to `suite`; they are answered with what to type there.
    suite_name: Annotated[str | None, typer.Option("--suite", hidden=True)] = None,
    data: Annotated[str | None, typer.Option("--data", hidden=True)] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", hidden=True)] = None,
    jobs: Annotated[str | None, typer.Option("--jobs", hidden=True)] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure students beside their teacher.

    On text it shows masked-LM loss, accuracy, agreement with the teacher, size and speed; on a
    task, its scores. Both come with flips and calibration. All of it is written to results.json.
    """
    with guard.console(json_output, "evaluating") as console:
        moved = {"--data": data, "--seeds": seeds, "--jobs": jobs}
        if suite_name is not None or any(value is not None for value in moved.values()):
            moved |= {"--teacher": teacher, "--output": None if output is None else str(output)}
            raise _suite_instead(suite_name, models or [], moved)
        names, overrides = names_and_overrides(models)
        output = None if output is None else option_output("--output", output)
        config = None if config is None else config_path(config)
        teacher = None if teacher is None else option_path("--teacher", teacher)
        asked = other_data(text, documents, dev)
        if teacher is not None and not text:
            raise ConfigError("--teacher can only be used with --text")
        from distilcli.cli import evaluate as command
        from distilcli.cli.models_to_measure import Wanted

        asked = replace(asked, teacher=teacher, num_sequences=num_sequences, speed=speed)
        command.run(Wanted(names, asked, config, tuple(overrides), output), console)


def predict(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL [KEY.SUB=VALUE]...",
            help="The fine-tuned model, as a folder, a hub name or a run, and settings to use "
            "instead of the file's.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(metavar="FILE", help="File to write, which ends in .jsonl or .parquet."),
    ],
    config: RunConfigOption = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--rows",
            metavar="FILE",
            help="Rows of this file instead of the task's to train on; may be repeated.",
        ),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="COLUMN",
            help="Column of ids to write too (default: task.teacher_outputs.id, else none).",
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Write down what a model says of the rows of a task.

    It writes one row for each row to train on: its texts, and a logit for each class, or a score
    for each text or candidate. An experiment whose task.teacher_outputs names the file trains a
    student as if the model was its teacher. It runs plain, under torchrun and under accelerate
    launch; what is killed goes on from where it was.
    """
    with guard.console(json_output, "predicting") as console:
        names, overrides = names_and_overrides(models)
        if len(names) != 1:
            raise ConfigError(
                f"one model is needed, and {len(names) or 'none'} is given",
                "Name one: distilcli predict MODEL --config FILE --output FILE.",
            )
        from distilcli.cli import predict as command

        wanted = command.WantedPredictions(
            model=names[0],
            config=None if config is None else config_path(config),
            overrides=tuple(overrides),
            output=option_output("--output", output),
            rows=tuple(option_path("--rows", word) for word in rows or []),
            id_column=id_column,
        )
        go_on = functools.partial(relaunched, sys.argv[1:])
        with guard.stopping(guard.GO_ON, go_on):
            command.run(wanted, console)


def _suite_instead(
    name: str | None, words: Sequence[str], options: Mapping[str, str | None]
) -> ConfigError:
    """What to type now that `eval` takes no suites."""
    given = [part for pair in options.items() if pair[1] is not None for part in pair]
    line = ["distilcli", "suite", name or "NAME", *words, *map(str, given)]
    return ConfigError(
        "suites have a command of their own: distilcli suite", f"Type {shlex.join(line)}"
    )


def _complete_suite(incomplete: str) -> list[str]:
    """Names of suites; where none fits, the shell offers files."""
    return [name for name in BUILTIN_SUITES if name.startswith(incomplete)]


def suite(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SUITE",
            help="glue, imdb, squad or tokens, or the file of a suite or of an ablation.",
            autocompletion=_complete_suite,
        ),
    ],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]... [KEY.SUB=VALUE]...",
            help="The student, as a run folder or a model, then other models to fine-tune beside "
            "it, and settings to use instead of the suite's. A file names its own models.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with the data of the tasks (default: the hub)."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Pretrained teacher (default: that of the student's run)."
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            min=1,
            max=1000,
            metavar="N",
            show_default=False,
            help="How often each model is trained (default: 5).",
        ),
    ] = 5,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            max=1024,
            metavar="N",
            help="Runs at a time (default: one on each GPU, or one on the CPU).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of all runs (default: runs/ and the name)."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Compare models on tasks, or settings, over several seeds.

    On each task it fine-tunes the teacher, fine-tunes the student on the labels alone, and distils
    the student from the fine-tuned teacher. An ablation trains one experiment and changes of its
    settings. Runs that are done are not run again.
    """
    with guard.console(json_output, "comparing models on tasks") as console:
        names, overrides = names_and_overrides(models)
        from distilcli.cli import suite as command

        wanted = command.WantedSuite(
            suite=option_path("SUITE", name),
            data=None if data is None else Path(option_path("--data", str(data))),
            models=names,
            teacher=None if teacher is None else option_path("--teacher", teacher),
            seeds=seeds,
            jobs=jobs,
            output=None if output is None else option_output("--output", output),
        )
        try:
            command.run(wanted, overrides, console)
        except Interrupted as interrupted:
            interrupted.hint = guard.typed()
            raise
