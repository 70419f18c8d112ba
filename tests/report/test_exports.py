"""Exports in reports: with the run that each is of, alone, and refused where they are of none."""

import shutil
from pathlib import Path

import pytest
from report_runs import (
    assert_sound,
    draw_nothing,
    results,
    write_export,
    write_models,
    write_run,
)

from distilcli.errors import ConfigError
from distilcli.files.json_text import to_json
from distilcli.report.html_page import html_of
from distilcli.report.markdown_page import markdown_of
from distilcli.report.pages import page_of


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    draw_nothing(monkeypatch)


def markdown(*folders: Path) -> str:
    """The Markdown of a page whose HTML is sound, with plain blanks and signs."""
    page = page_of(folders, ["Made of a test."])
    html, text = html_of(page), markdown_of(page, {})
    assert_sound(html)
    assert str(folders[0].parent.parent) not in html + text
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def test_an_export_is_shown_with_its_run(models, tmp_path):
    """Of 40 ms the int8 file takes 5, and 45.0 % become 44.6 %: of 75 % kept, 74.3 %."""
    run = write_run(tmp_path, models, measured=results())
    text = markdown(run, write_export(tmp_path / "out", run / "student"))
    assert "| teacher in torch | \N{EN DASH} |" in text
    row = "| ONNX in int8 | 44.6 % | 0.40 | 0.03 | 2.0 | 5 | 160 | 8.0 x | 8.0 x |"
    assert row in text.replace("\N{MULTIPLICATION SIGN}", "x")
    assert "| ONNX in fp32 | 45.0 % | 0.00 | 9e-7 |" in text.replace("9.0e-7", "9e-7")
    assert "Exported as ONNX in int8, the student is 8.0 times as fast as its teacher" in text
    assert "int8: 74.3 % of the teacher's accuracy, 2 MiB" in text
    assert "int8: 12.5 % of the teacher's latency" in text


def test_exports_go_to_the_students_they_were_made_of(models, tmp_path):
    """By weights, not by the order on the command line."""
    runs = [write_run(tmp_path, models, name=name, measured=results(name)) for name in ("a", "b")]
    (runs[1] / "student").unlink()
    (runs[1] / "student").symlink_to(models / "teacher")  # another one
    exports = [write_export(tmp_path / f"of-{run.name}", run / "student", name="x") for run in runs]
    text = markdown(*runs, *reversed(exports))
    assert "| a, ONNX in int8 |" in text
    assert "| b, ONNX in int8 |" in text
    of_a, of_b = text.partition("## a\n")[2].split("## b\n")
    assert "The export of-a" in of_a
    assert "The export of-b" in of_b
    assert "of-b" not in of_a


def test_exports_inside_a_run_folder_are_found(models, tmp_path):
    run = write_run(tmp_path, models)
    write_export(run / "onnx", run / "student")
    write_export(run / "older", None)
    text = markdown(run)
    assert "The export onnx" in text
    assert "The export older is not shown: it was made of another student" in text


def test_a_run_whose_student_is_gone_has_exports_by_its_name(models, tmp_path):
    run = write_run(tmp_path, models, measured=results(), finished=False)
    assert "The export out" in markdown(run, write_export(tmp_path / "out", models / "student"))
    other = write_export(tmp_path / "other", models / "student", name="other")
    with pytest.raises(ConfigError, match="the student of none of the runs"):
        page_of([run, other], [])


def test_an_export_of_a_stage_is_shown_there(models, tmp_path):
    run = write_run(tmp_path, models, of=[], finished=False)
    stage = write_run(run / "stages", models, name="1-general")
    text = markdown(run, write_export(tmp_path / "out", stage / "student"))
    assert "The export out" in text.partition("## Stage 1: general")[2]


def test_an_export_of_another_student_is_refused(models, tmp_path):
    """Of the same run before it was trained again, or of another one."""
    run = write_run(tmp_path, models)
    before = write_export(tmp_path / "before", None)
    with pytest.raises(ConfigError, match="another student of tiny") as refused:
        page_of([run, before], [])
    assert "distilcli export tiny --output before" in str(refused.value.hint)
    other = write_export(tmp_path / "other", None, name="other")
    with pytest.raises(ConfigError, match="the student of none of the runs") as refused:
        page_of([run, other], [])
    assert "distilcli report other --output other.html" in str(refused.value.hint)


def test_an_export_alone_has_a_page(models, tmp_path):
    export = write_export(tmp_path / "out", models / "student", teacher=False)
    text = markdown(export)
    assert "# out\n" in text
    assert "4.0 times as fast as its student in torch" in text.replace("  ", " ")
    assert "| onnx/model\\_quantized.onnx | ONNX in int8 | 2.0 | abababababababab |" in text
    quick = write_export(tmp_path / "quick", models / "student", speed={})
    text = markdown(export, quick)
    assert "2 exports of students" in text
    assert "| quick, ONNX in int8 | accuracy 44.6 % | 0.40 | 2.0 | \N{EN DASH} |" in text


@pytest.mark.parametrize("content", ["[]", "{}", to_json({"formats": {}}), "{"])
def test_a_damaged_record_is_said(models, tmp_path, content):
    run = write_run(tmp_path, models)
    export = write_export(tmp_path / "out", run / "student")
    (export / "export.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="is not as distilcli export writes it"):
        page_of([export], [])
    shutil.copytree(export, run / "inside")
    assert "An export is not shown" in markdown(run)
