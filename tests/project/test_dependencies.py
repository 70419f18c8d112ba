"""Every package that is imported is declared, and what an extra brings says which extra."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import get_args

import pytest

from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.training import TrainConfig
from distilcli.errors import ConfigError, extra
from distilcli.tasks.task import scikit_metrics
from distilcli.training import tracking
from distilcli.training.processes import make_accelerator
from distilcli.training.tracker_kinds import TRACKERS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# The distribution of a package that is not installed here.
ELSEWHERE = {"textbrewer": "textbrewer"}
# Folders that are imported only once their extra is known to be there.
FOLDERS_OF_EXTRAS = {"report": "report"}


def names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[<>=!~\[; ]", requirement)[0]) for requirement in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


INSTALLED = packages_distributions()  # takes a second


def distributions(package: str) -> set[str]:
    found = INSTALLED.get(package, [ELSEWHERE.get(package, "")])
    return {normal(name) for name in found}


def imported(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each package of others that a file imports, with the extra it is guarded by."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded: dict[ast.AST, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and isinstance(node.items[0].context_expr, ast.Call):
            call = node.items[0].context_expr
            if ast.unparse(call.func) == "extra" and isinstance(call.args[0], ast.Constant):
                guarded |= dict.fromkeys(node.body, str(call.args[0].value))
    own = {file.stem for file in path.parent.glob("*.py")}
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in modules:
            package = module.partition(".")[0]
            ours = package in own and path.parent.name == "scripts"
            if package not in sys.stdlib_module_names and package != "distilcli" and not ours:
                yield package, guarded.get(node)


def test_what_the_package_imports_is_declared() -> None:
    needed = names(PROJECT["dependencies"])
    seen = set()
    for path in sorted((ROOT / "distilcli").rglob("*.py")):
        for package, guard in imported(path):
            declared = needed if guard is None else names(EXTRAS[guard])
            if path.parent.name in FOLDERS_OF_EXTRAS:  # which its command asks for first
                declared = needed | names(EXTRAS[FOLDERS_OF_EXTRAS[path.parent.name]])
            assert distributions(package) & declared, f"{path}: {package} is not declared"
            seen.add((package, guard))
    assert {("torch", None), ("sklearn", "eval"), ("scipy", "eval")} <= seen


def test_what_the_scripts_import_is_declared() -> None:
    declared = names(PROJECT["dependencies"]).union(*map(names, EXTRAS.values()))
    for path in sorted((ROOT / "scripts").glob("*.py")):
        for package, _ in imported(path):
            assert distributions(package) & declared, f"{path}: {package} is not declared"


def test_what_is_declared_is_imported() -> None:
    seen = {
        name
        for path in (ROOT / "distilcli").rglob("*.py")
        for package, _ in imported(path)
        for name in distributions(package)
    }
    assert names(PROJECT["dependencies"]) - seen == set()


def test_the_check_would_notice(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        "import os, requests\nfrom yaml.nodes import Node\n"
        "def later():\n    with extra('eval', 'x'):\n        from sklearn import metrics\n"
    )
    found = list(imported(tmp_path / "module.py"))
    assert sorted(found, key=str) == [("requests", None), ("sklearn", "eval"), ("yaml", None)]


# What is not installed


def test_every_tracker_has_an_extra_that_brings_it() -> None:
    offered = get_args(get_args(TrainConfig.model_fields["trackers"].annotation)[0])
    assert set(offered) == TRACKERS.keys()
    for tracker, kind in TRACKERS.items():
        assert {tracker, f"{tracker}-skinny"} & names(EXTRAS[kind.extra])


@pytest.mark.slow
@pytest.mark.parametrize("tracker", list(TRACKERS))
def test_a_tracker_that_is_not_installed_is_not_left_out(
    tiny_world, monkeypatch, tracker, fresh_accelerator
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(tracking, "import_module", missing)
    settings = tiny_world.experiment()
    settings["train"] |= {"trackers": [tracker]}
    with pytest.raises(ConfigError) as caught:
        make_accelerator(MaskedLMExperiment.model_validate(settings))
    assert caught.value.message == (
        f"train.trackers: {tracker} is not installed (No module named '{tracker}')"
    )
    assert caught.value.hint == f"pip install 'distilcli[{TRACKERS[tracker].extra}]'"
    assert caught.value.exit_code == 2


def test_scores_without_scikit_learn(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match="tasks are scored with scikit-learn and SciPy") as caught:
        scikit_metrics()
    assert caught.value.hint == "pip install 'distilcli[eval]'"
    with pytest.raises(ZeroDivisionError), extra("eval", "x"):
        1 / 0  # noqa: B018
