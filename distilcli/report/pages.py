"""Which page is made of the folders that are named."""

from collections.abc import Sequence
from pathlib import Path

from distilcli.report.blocks import Page
from distilcli.report.comparison import page_of_runs
from distilcli.report.run_facts import read_run
from distilcli.report.run_page import page_of_run


def page_of(folders: Sequence[Path], foot: list[str]) -> Page:
    """The page about runs.

    Args:
        folders: of runs.
        foot: what it was made of, and by what.
    """
    if len(folders) == 1:
        return page_of_run(read_run(folders[0]), foot)
    return page_of_runs([read_run(folder) for folder in folders], foot)
