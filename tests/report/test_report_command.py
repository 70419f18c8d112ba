"""`distilcli report` as it is typed: where it writes, what it refuses, what it says."""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from report_runs import assert_sound, draw_nothing, results, write_export, write_models, write_run
from tiny_experiments import _main, start_function
from typer.testing import CliRunner

from distilcli.cli.app import app


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    draw_nothing(monkeypatch)


def report(*words: object):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def test_the_page_lies_in_the_run_folder(models, tmp_path):
    run = write_run(tmp_path, models, measured=results())
    finished = report(run, "--json")
    assert finished.exit_code == 0, finished.output
    told = json.loads(finished.stdout)
    assert told["report"] == str(run / "report.html")
    assert told["markdown"] == str(run / "report.md")
    assert told["figures"] == str(run / "report-figures")
    assert_sound((run / "report.html").read_text(encoding="utf-8"))
    assert (run / "report.md").read_text(encoding="utf-8").startswith("<!-- distilcli report -->")


def test_figures_of_the_markdown_lie_beside_it(models, tmp_path):
    """All that it names and no others, each a well-formed SVG that is right in light and dark."""
    run = write_run(tmp_path, models, measured=results())
    text = tmp_path / "a text.md"
    assert report(run, "--markdown", text).exit_code == 0
    folder = tmp_path / "a text-figures"
    named = re.findall(r"!\[(?:[^\]\\]|\\.)+\]\((\S+)\)", text.read_text(encoding="utf-8"))
    assert len(named) == 6
    files = {path.name for path in folder.glob("*.svg")}
    assert {f"a%20text-figures/{name}" for name in files} == set(named)
    for path in folder.glob("*.svg"):
        svg = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(svg.attrib["width"]) > 700
        style = "".join(found.text or "" for found in svg.iter() if found.tag.endswith("style"))
        assert "prefers-color-scheme:dark" in style
    assert "<summary>The values as a table</summary>" in text.read_text(encoding="utf-8")


def test_a_report_takes_the_place_of_the_one_before(models, tmp_path):
    run = write_run(tmp_path, models)
    assert report(run).exit_code == 0
    assert (run / "report-figures" / "losses.svg").exists()
    before = (run / "report.html").read_text(encoding="utf-8")
    (run / "results.json").write_text(json.dumps(results()), encoding="utf-8")
    assert report(run).exit_code == 0
    assert (run / "report.html").read_text(encoding="utf-8") != before
    (run / "metrics.jsonl").unlink()
    assert report(run).exit_code == 0
    assert not (run / "report-figures" / "losses.svg").exists()


def test_files_go_where_they_are_asked_for(models, tmp_path):
    run = write_run(tmp_path, models)
    page, text = tmp_path / "there" / "page.html", tmp_path / "text.md"
    assert report(run, "--output", page, "--markdown", text).exit_code == 0
    assert page.exists()
    assert text.exists()
    assert not (run / "report.html").exists()


def refused(*words: object) -> str:
    finished = report(*words)
    assert finished.exit_code == 2, finished.output
    return finished.stderr


def test_what_is_no_run_is_refused(models, tmp_path):
    assert "there is no such folder" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "is not the folder of a run, an export, a suite" in refused(tmp_path / "empty")
    run = write_run(tmp_path, models)
    assert "named twice" in refused(run, run, "--output", tmp_path / "page.html")


def test_several_runs_need_a_place(models, tmp_path):
    one, other = (write_run(tmp_path, models, name=name) for name in ("one", "other"))
    assert "--output" in refused(one, other)
    assert report(one, other, "--output", tmp_path / "both.html").exit_code == 0
    assert_sound((tmp_path / "both.html").read_text(encoding="utf-8"))


def test_a_run_with_an_export_has_its_place_and_an_export_alone_needs_one(models, tmp_path):
    run = write_run(tmp_path, models)
    export = write_export(tmp_path / "out", run / "student")
    assert "--output" in refused(export)
    assert report(run, export).exit_code == 0
    assert "The export out" in (run / "report.md").read_text(encoding="utf-8")
    assert report(export, "--output", tmp_path / "page.html").exit_code == 0
    assert_sound((tmp_path / "page.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("option", "name"), [("--output", "page.txt"), ("--markdown", "page.html")]
)
def test_a_file_of_another_kind_is_refused(models, tmp_path, option, name):
    assert "must end in" in refused(write_run(tmp_path, models), option, tmp_path / name)


def test_what_others_wrote_is_not_replaced(models, tmp_path):
    """And then nothing is written at all."""
    run = write_run(tmp_path, models)
    (run / "report.md").write_text("# My own notes\n", encoding="utf-8")
    assert "nothing in it says that distilcli wrote it" in refused(run)
    assert (run / "report.md").read_text(encoding="utf-8") == "# My own notes\n"
    assert not (run / "report.html").exists()
    (run / "report.md").unlink()
    mine = run / "report-figures" / "mine.svg"
    mine.parent.mkdir()
    mine.write_text("<svg/>", encoding="utf-8")
    assert "nothing in it says that distilcli wrote it" in refused(run)
    assert [path.name for path in mine.parent.iterdir()] == ["mine.svg"]
    assert not (run / "report.html").exists()
    (tmp_path / "folder.html").mkdir()
    assert "is a folder" in refused(run, "--output", tmp_path / "folder.html")


def without(package: str, *arguments: str) -> None:
    sys.modules[package] = None
    _main(*arguments)


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_with_its_extra(models, tmp_path, package):
    """In a process of its own, which has not imported it yet."""
    run = write_run(tmp_path, models)
    finished = start_function(without, [package, "report", str(run)]).wait()
    assert finished.code == 2, finished.stderr
    assert package in finished.stderr
    assert "pip install 'distilcli[report]'" in finished.stderr
    assert not (run / "report.html").exists()
