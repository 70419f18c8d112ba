"""Turns every error of a command into a message and an exit code.

`run` is around the whole command line, `console` around the body of one command. Here nothing but
the standard library and Typer is imported, so that `--help` answers at once.
"""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from distilcli import signals
from distilcli.cli.launch import check_launch
from distilcli.cli.streams import patient_streams, undelivered
from distilcli.errors import ConfigError, DistilError, Interrupted, doing, unexpected
from distilcli.files.json_text import to_json

if TYPE_CHECKING:
    from distilcli.cli.console import Console

# All else is an error of a command; interruptions and Rust's panics are no `Exception`s.
_NO_ERRORS = (SystemExit, GeneratorExit)


def run(app: typer.Typer, arguments: list[str]) -> int:
    """The exit code of one command line, whatever happens and whatever it is connected to.

    With DISTILCLI_DEBUG=1 an error is raised instead, with its traceback.
    """
    with patient_streams() as stdout:
        signals.stop_on_signals()
        try:
            code = _run(app, arguments)
        finally:
            signals.leave_quietly()
        if code == 0 and (reason := undelivered(stdout)):
            code = _say_plainly(DistilError(reason, "Send it to a file on a disk with room."))
    return code


def _run(app: typer.Typer, arguments: list[str]) -> int:
    try:
        with stopping(START_AGAIN, typed):
            return app(arguments, prog_name="distilcli", standalone_mode=False) or 0
    except BaseException as error:
        if isinstance(error, _NO_ERRORS):
            raise
        if not _is_usage_error(error):
            if _is_debugged():
                raise
            return _say_plainly(unexpected(error), as_json="--json" in arguments)
        return _show_usage_error(error, as_json="--json" in arguments)


def _is_usage_error(error: BaseException) -> bool:
    # Typer does not name the base of its usage errors, but for one class derived from it.
    return isinstance(error, typer.BadParameter.__bases__)


def _show_usage_error(error: Any, as_json: bool) -> int:
    """What is wrong with the words of a command line, with how it should be; the exit code."""
    code = int(getattr(error, "exit_code", 2))
    message = str(error.format_message())
    context = getattr(error, "ctx", None)
    if context is None or message == context.get_help():
        error.show()  # no command is named: the help is all there is to say
        return code
    sys.stderr.write(f"{context.get_usage()}\n")
    return _say_plainly(ConfigError(message, f"Try '{context.command_path} --help'."), as_json)


def _say_plainly(error: DistilError, as_json: bool = False) -> int:
    """Say an error where there is no console yet, or none any more; its exit code."""
    sys.stderr.write(f"error: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"{error.hint}\n")
    if as_json:
        sys.stdout.write(to_json(error.record()) + "\n")
    return error.exit_code


def _is_debugged() -> bool:
    return os.environ.get("DISTILCLI_DEBUG") == "1"


@contextmanager
def console(as_json: bool, activity: str) -> Iterator["Console"]:
    """A console for one command, and the one place where its errors become exit codes.

    Args:
        as_json: whether the result is for programs.
        activity: what the command does, for an error that nobody expected.
    """
    with stopping(START_AGAIN, typed), doing(activity):  # a signal may come at any moment
        from distilcli.cli.console import Console

        made = Console(as_json)
    try:
        with stopping(START_AGAIN, typed), doing(activity):
            check_launch()
            yield made
    except BaseException as error:
        if isinstance(error, (typer.Exit, *_NO_ERRORS)) or _is_debugged():
            raise
        known = unexpected(error)
        made.error(known)
        raise typer.Exit(known.exit_code) from None


START_AGAIN = "stopped by {signal}; the same command starts again:"
GO_ON = "stopped by {signal}; what is finished is kept, and this goes on from it:"


@contextmanager
def stopping(message: str, command: Callable[[], str]) -> Iterator[None]:
    """A signal inside the block, where nothing is trained, becomes an error that says how to go on.

    Args:
        message: with a place for the signal's name.
        command: what to type then.
    """
    try:
        yield
    except signals.Stopped as stopped:
        raise Interrupted(
            message.format(signal=stopped.number.name),
            command(),
            signals.exit_signal(stopped.number),
        ) from None


def typed() -> str:
    """The command line as it was typed."""
    return shlex.join(["distilcli", *sys.argv[1:]])
