"""The only printer: results on stdout, everything else on stderr.

With `--json` stdout gets one object, also where the command fails; without, a table for people.
Under `torchrun` only the first process prints. What is printed is `printable`: names of files and
settings move no cursor and end no line. `streams.py` sees to it that printing never raises.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from distilcli.cli.launch import is_main_process
from distilcli.errors import DistilError, printable
from distilcli.evaluation.result import Result
from distilcli.files.json_text import to_json


class Console:
    """Prints for one command.

    Args:
        as_json: the result goes to stdout as one JSON object.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._has_result = False
        quiet = not is_main_process()
        # emoji: a name may hold ":file:", which is no picture.
        self._out = RichConsole(quiet=quiet, highlight=False, soft_wrap=True, emoji=False)
        self._err = RichConsole(
            stderr=True, quiet=quiet, highlight=False, soft_wrap=True, emoji=False
        )
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=self._err,
            disable=quiet or not self._err.is_terminal,
        )

    def note(self, text: str) -> None:
        """Say what is going on."""
        self._err.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        """Say what looks wrong."""
        self._err.print(f"warning: {printable(text)}", style="yellow", markup=False)

    def error(self, error: DistilError) -> None:
        """Say what failed and what to do next; a failure of one rank alone must be heard too.

        Mistakes in settings are those of all ranks; one of each other host says them, since its
        files may differ.
        """
        code, is_first_of_host = error.exit_code, os.environ.get("LOCAL_RANK") == "0"
        if self._err.quiet and (code == 1 or (code == 2 and is_first_of_host)):
            rank = os.environ["RANK"]
            sys.stderr.write(f"error on rank {rank}: {error.message}\n")
        self._err.print(f"error: {error.message}", style="bold red", markup=False)
        if error.hint:
            self._err.print(printable(error.hint), markup=False)
        self.result(error.record())

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table on stdout; nothing with `--json`."""
        if self.as_json:
            return
        named = Text(printable(title), style="bold")
        table = Table(title=named, title_justify="left", pad_edge=False)
        for index, column in enumerate(columns):
            header = Text(printable(column))
            table.add_column(header, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self._out.print(table, markup=False)

    def say(self, text: str) -> None:
        """A line of the result for people, on stdout; nothing with `--json`."""
        if not self.as_json:
            self._out.print(printable(text), markup=False)

    def show(self, result: Result) -> None:
        """What a command found out: a table and lines for people, an object for programs."""
        self.show_to_people(result)
        self.result(result.record)

    def show_to_people(self, result: Result) -> None:
        """The table and the lines of a result, and its warnings."""
        self.table(result.table.title, result.table.columns, result.table.rows)
        for line in result.lines:
            self.say(line)
        for warning in result.warnings:
            self.warn(warning)

    def result(self, record: dict[str, Any]) -> None:
        """The result for programs: one object on stdout with `--json`, else nothing.

        It is given once: an error after it is on stderr and in the exit code.
        """
        if self.as_json and not self._out.quiet and not self._has_result:
            self._has_result = True
            sys.stdout.write(to_json(record) + "\n")
            sys.stdout.flush()

    @contextmanager
    def bar(self, description: str) -> Iterator["Bar"]:
        """A progress bar on a terminal; a line every half minute elsewhere."""
        with self._progress:
            task = self._progress.add_task(description, total=None)
            yield Bar(self, self._progress, task, description)


class Bar:
    """Progress of one activity."""

    _SECONDS_BETWEEN_LINES = 30.0

    def __init__(
        self, console: Console, progress: Progress, task: TaskID, description: str
    ) -> None:
        self._console = console
        self._progress = progress
        self._task = task
        self._description = description
        self._start = self._last_line = time.monotonic()

    def update(self, done: float, total: float | None, text: str) -> None:
        """Show that `done` of `total` is done."""
        self._progress.update(
            self._task,
            completed=done,
            total=total,
            description=f"{self._description}  {text}",
        )
        now = time.monotonic()
        if self._progress.disable and now - self._last_line > self._SECONDS_BETWEEN_LINES:
            self._last_line = now
            share = f"{100 * done / total:.0f} %" if total else ""
            said = ", ".join(part for part in (share, text) if part)
            self._console.note(f"{self._description}: {said}")
