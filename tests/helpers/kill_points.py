"""Kills at every change of the file system, one after another."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# Every call by which a file system is changed.
CHANGES = ("mkdir", "rename", "replace", "unlink", "rmdir", "chmod", "fsync")


class Killed(BaseException):
    """What a SIGKILL is to the code that it hits; nothing that cleans up gets to do it."""


@contextmanager
def killed_before(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let only the first changes to the file system happen; the calls that were asked for."""
    asked: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            asked.append(name)
            if len(asked) > number:
                raise Killed
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # nobody pulls the plug; it takes the longest
        for name in CHANGES:
            patch.setattr(os, name, counted(name, getattr(os, name)))
        yield asked


def kill_points(
    task: Callable[[], None], prepare: Callable[[], None], monkeypatch
) -> Iterator[int]:
    """Do a task over and over, killed before its first change, its second, and so on."""
    for number in range(200):
        prepare()
        try:
            with killed_before(number, monkeypatch):
                task()
        except Killed:
            yield number
        else:
            assert number > 3  # something was killed
            return
    raise AssertionError("a task of 200 changes")
