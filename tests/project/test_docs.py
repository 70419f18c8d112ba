"""The pages for users: links lead somewhere, commands exist, and every page can be found.

Nothing here needs the generator of the site; `sphinx-build -W docs build/docs` is a job of the
continuous integration. What the pages tell people to run is run by `test_readme.py`.
"""

import functools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from distilcli.config.reading import load_any_experiment
from distilcli.losses.table import MASKED_LM_TERMS, TASK_TERMS
from distilcli.suites.ablations import is_ablation, load_ablation, plan_ablation

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *DOCS]
README_LINES = 150

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def without_code(text: str) -> str:
    """The text without fenced blocks and code spans."""
    return re.sub(r"`[^`]+`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def code_spans(text: str) -> list[str]:
    """What stands between backquotes, a line break in it as a space."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def command_lines(text: str) -> list[list[str]]:
    """Every line of the bash blocks, lines that go on joined and comments left out."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


# Links


def anchors(text: str) -> set[str]:
    """The names that forges and the site give the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    names: list[str] = []
    for heading in headings:
        name = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        repeats = sum(
            re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in names
        )
        names.append(f"{name}-{repeats}" if repeats else name)
    return set(names)


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead nowhere."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text).replace("\n", " ")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(text_of(target))):
            broken.append(link)
    return broken


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """Files and headings that a page links to are there."""
    assert broken_links(page, text_of(page)) == []


def test_the_check_of_links_would_notice(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One two\n\n## It's *so*, is it?\n\n## One two\n")
    good = "[a](other.md) [b](other.md#one-two) [c](other.md#its-so-is-it) [d](other.md#one-two-1)"
    bad = "[e](none.md) [f](other.md#three) [g\nh](#here) [i](https://example.org) `[j](k)`"
    assert broken_links(tmp_path / "page.md", good) == []
    (tmp_path / "page.md").write_text("# There\n")
    assert broken_links(tmp_path / "page.md", good + bad) == ["none.md", "other.md#three", "#here"]


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = re.findall(r"\]\(([\w-]+\.md)\)", text_of(index))
    assert len(linked) == len(set(linked))
    assert {page.name for page in DOCS} - {"index.md"} == set(linked)


@each_page
def test_paths_that_are_named_exist(page: Path) -> None:
    pattern = r"(?:configs|docs|scripts|tests|benchmarks|\.github)/[\w./-]*\w"
    for name in re.findall(rf"(?<![\w/]){pattern}", text_of(page)):
        assert (ROOT / name).exists(), name


# Commands


@functools.cache
def options(command: str) -> frozenset[str]:
    """The options of one command, as its help names them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    answer = subprocess.run(
        [sys.executable, "-m", "distilcli", *command.split(), "--help"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, f"distilcli {command}: {answer.stderr}"
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", answer.stdout))


@functools.cache
def commands() -> frozenset[str]:
    """What can follow `distilcli`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "distilcli", "--help"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    listed = answer.stdout.partition("Commands:")[2]
    return frozenset(re.findall(r"^  ([a-z-]+)  ", listed, flags=re.MULTILINE))


def mistakes(words: list[str]) -> list[str]:
    """What does not exist in a command line of distilcli, however it is launched."""
    if "distilcli" not in words:
        return []
    arguments = words[words.index("distilcli") + 1 :]
    if not arguments or arguments[0].startswith("-"):
        return [word for word in arguments if word not in options("")]
    if arguments[0] == "COMMAND":
        return []
    if arguments[0] not in commands():
        return [arguments[0]]
    given = [word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)]
    return [word for word in given if word not in options(arguments[0])]


@each_page
def test_commands_and_options_exist(page: Path) -> None:
    text = text_of(page)
    spans = [shlex.split(span) for span in code_spans(text) if span.startswith("distilcli ")]
    lines = command_lines(text) + spans
    assert [(line, wrong) for line in lines if (wrong := mistakes(line))] == []


def test_the_check_of_commands_would_notice() -> None:
    assert mistakes(["torchrun", "-m", "distilcli", "train", "-c", "x", "--resume"]) == []
    assert mistakes(["distilcli", "learn"]) == ["learn"]
    assert mistakes(["distilcli", "train", "--conf", "x"]) == ["--conf"]
    assert mistakes(["distilcli", "--vers"]) == ["--vers"]


@each_page
def test_overrides_of_shipped_experiments_are_settings(page: Path) -> None:
    for words in command_lines(text_of(page)):
        named = [word for word in words if re.fullmatch(r"configs/[\w-]+\.yaml", word)]
        overrides = [word for word in words if re.match(r"[a-z_]+(\.\w+)*=", word)]
        if named and "--config" in words:
            load_any_experiment(ROOT / named[0], overrides)


@each_page
def test_scripts_that_are_called_exist(page: Path) -> None:
    text = text_of(page)
    for words in command_lines(text) + [span.split() for span in code_spans(text)]:
        if words[0] in ("bash", "python") and len(words) > 1 and words[1].startswith("scripts/"):
            assert (ROOT / words[1]).is_file(), words[1]


@each_page
def test_yaml_blocks_are_experiments(page: Path, tmp_path: Path) -> None:
    for index, block in enumerate(blocks(text_of(page), "yaml")):
        path = tmp_path / f"{index}.yaml"
        path.write_text(block, encoding="utf-8")
        if is_ablation(path):
            plan_ablation(load_ablation(path, []), 1, path)
        else:
            load_any_experiment(path)


def test_there_is_something_to_check() -> None:
    """The patterns above find what the pages have."""
    text = "\n".join(map(text_of, PAGES))
    assert len(blocks(text, "yaml")) >= 3
    assert len([words for words in command_lines(text) if "distilcli" in words]) >= 15
    assert {"prepare", "init-student", "train", "eval"} <= commands()


# The pages as forges and readers see them


@each_page
def test_a_forge_can_show_it(page: Path) -> None:
    """Markdown and math alone: a directive of the generator would be shown as code."""
    text = text_of(page)
    assert not re.search(r"^(```|:::)\s*\{", text, flags=re.MULTILINE)
    languages = set(re.findall(r"^```(\S+)$", text, flags=re.MULTILINE))
    assert languages <= {"bash", "js", "math", "python", "text", "yaml"}
    assert len(re.findall(r"(?m)^```", text)) % 2 == 0


def test_readme_fits_its_bounds() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= README_LINES


def test_the_page_of_commands_explains_the_key_of_every_loss() -> None:
    page = text_of(ROOT / "docs" / "commands.md")
    for term in {*MASKED_LM_TERMS, *TASK_TERMS}:
        assert f"| `{term.metric}` |" in page
        assert f"`loss.{term.name}`" in page


def test_files_of_the_package_that_are_named_exist() -> None:
    """The page of design says where to look, by paths below the package."""
    design = text_of(ROOT / "docs" / "design.md").partition("## Where to look")[2]
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", design)
    assert len(named) >= 10
    assert [name for name in named if not (ROOT / "distilcli" / name).is_file()] == []


# The generator


def test_the_site_is_built_from_what_is_pinned() -> None:
    """The continuous integration installs the extra `docs` alone, without the package."""
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    extra = [re.split(r"[<>=]", name)[0] for name in project["optional-dependencies"]["docs"]]
    pinned = {line.partition("==")[0].lower() for line in text_of(ROOT / "constraints.txt").split()}
    assert {name.lower() for name in extra} <= pinned
    workflow = text_of(ROOT / ".github" / "workflows" / "ci.yml")
    assert f"pip install -c constraints.txt {' '.join(extra)}" in workflow
    assert "sphinx-build -W" in workflow
