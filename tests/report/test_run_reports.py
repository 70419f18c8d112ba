"""The page about one run: what stands on it, whatever the run folder has or lacks."""

import re
from pathlib import Path

import pytest
from report_runs import (
    assert_sound,
    draw_nothing,
    json_of,
    record,
    records,
    results,
    write_models,
    write_run,
)

from distilcli.files.json_text import to_json
from distilcli.report.drawing import as_file
from distilcli.report.html_page import html_of
from distilcli.report.layer_drawing import layer_picture
from distilcli.report.markdown_page import markdown_of
from distilcli.report.model_facts import facts_of_model
from distilcli.report.pages import page_of


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch):
    """Only what is about figures draws them."""
    if "drawn" not in request.node.name:
        draw_nothing(monkeypatch)


def pages(*runs: Path) -> tuple[str, str]:
    """The HTML, which is sound, and the Markdown of runs."""
    page = page_of(runs, ["Made of a test."])
    html, markdown = html_of(page), markdown_of(page, {})
    assert_sound(html)
    for run in runs:  # whose settings, fingerprints and messages have it
        assert str(run.parent.parent) not in html + markdown
    return html, markdown


@pytest.mark.slow
def test_a_whole_run_is_drawn_with_every_section(models, tmp_path):
    run = write_run(tmp_path, models, measured=results())
    html, markdown = pages(run)
    found = assert_sound(html)
    sections = ["Quality", "Training", "Size and speed", "The student", "Cost", "How it was made"]
    assert [text for text in found.texts["h2"] if text in sections] == sections
    assert "What is missing" not in html
    for title in sections:
        assert f"## {title}" in markdown
    assert found.tags.count("svg") == 2 * 6  # held out, losses, pace, two of size, layers


def test_numbers_are_those_on_the_disk(models, tmp_path):
    """0.45 of 0.6 is 75 %; 30 steps of 100 tokens at 50 a second are 60 s."""
    run = write_run(tmp_path, models, measured=results())
    html, markdown = pages(run)
    for text in ("75.0\N{NO-BREAK SPACE}%", "45.0\N{NO-BREAK SPACE}%", "2,000,000", "60 s"):
        assert text.replace(" ", "\N{NO-BREAK SPACE}") in html.replace("&#160;", "\xa0"), text
    assert "| accuracy | 60.0 % | 15.0 % | 45.0 % |" in markdown.replace("\xa0", " ")
    assert "| tokens trained on | 3,000 |" in markdown.replace("\xa0", " ")
    assert "is 2.0 times as fast" in markdown


def test_a_model_has_one_number_of_parameters(models, tmp_path):
    """That of what was measured; what its files hold beside it is said once."""
    _, markdown = pages(write_run(tmp_path, models, measured=results()))
    markdown = markdown.replace("\xa0", " ")
    assert "a BERT of 4 layers and 4 M parameters" in markdown
    assert "**2 M** parameters (50 % of the teacher's)" in markdown
    assert "| parameters | 4,000,000 | 2,000,000 |" in markdown
    teacher, student = (facts_of_model(models / name) for name in ("teacher", "student"))
    numbers = f"{teacher.parameters:,} | {student.parameters:,}"
    assert f"| numbers in its files | {numbers} |" in markdown
    assert f"{teacher.parameters:,}" not in markdown.replace(numbers, "")


def test_layers_are_those_that_were_copied(models, tmp_path):
    _, markdown = pages(write_run(tmp_path, models))
    assert "student layer 0 from 0 and 1 from 2" in markdown


@pytest.mark.parametrize(
    ("layers", "said"), [("top", "0 from 2 and 1 from 3"), ([3, 1], "0 from 3 and 1 from 1")]
)
def test_the_layer_map_follows_the_settings(models, tmp_path, layers, said):
    student = {"kind": "copied", "num_layers": 2, "layers": layers}
    _, markdown = pages(write_run(tmp_path, models, student=student))
    assert said in markdown


def test_a_run_that_is_not_measured_says_how_to_measure_it(models, tmp_path):
    run = write_run(tmp_path, models)
    html, _ = pages(run)
    assert f"distilcli eval {run.name} writes" in html
    assert "Held-out scores of the last validation" in html


def test_a_killed_run_says_where_it_stands(models, tmp_path):
    run = write_run(tmp_path, models, of=records(17), finished=False)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 18, "loss/to')
    html, _ = pages(run)
    assert "step 17" in html
    assert "--resume goes on" in html
    assert "1 of the 18 lines of metrics.jsonl cannot be read" in html


def test_a_run_that_has_not_begun(models, tmp_path):
    """There is a page of settings and models."""
    html, _ = pages(write_run(tmp_path, models, of=[], finished=False))
    assert "Training has not begun" in html
    assert "Which of the 4 layers" in html


def test_one_step_alone_has_no_curves(models, tmp_path):
    html, _ = pages(write_run(tmp_path, models, of=[record(1, accuracy=0.1)]))
    assert "Losses by term" not in html
    assert "10.0" in html


def test_without_a_teacher_nothing_is_compared(models, tmp_path):
    student = {"kind": "checkpoint", "model": str(models / "student")}
    loss = {"masked_lm": {"weight": 1.0}}
    run = write_run(tmp_path, models, teacher=None, student=student, loss=loss)
    html, _ = pages(run)
    assert "without a teacher" in html
    assert "The student started as the model" in html


def test_a_teacher_that_is_gone_is_said(models, tmp_path):
    run = write_run(tmp_path, models)
    prints = json_of(run / "identity.json")
    prints["teacher.model configuration"]["place"] = "gone/config.json"
    (run / "identity.json").write_text(to_json(prints), encoding="utf-8")
    html, _ = pages(run)
    assert "is not where it was" in html


def test_stages_have_sections_of_their_own(models, tmp_path):
    """Below those of the whole run, whose cost is the sum of theirs."""
    run = write_run(tmp_path, models, of=[], measured=results())
    (run / "metrics.jsonl").unlink(missing_ok=True)
    for name in ("1-general", "2-more"):
        write_run(run / "stages", models, name=name)
    html, markdown = pages(run)
    assert "Training in 2 stages" in html
    assert "general (masked-LM training from" in html
    assert "## Stage 2: more" in markdown
    assert "| tokens trained on | 6,000 |" in markdown.replace("\xa0", " ")


def test_a_stage_that_is_not_finished_is_said(models, tmp_path):
    run = write_run(tmp_path, models, of=[], finished=False)
    write_run(run / "stages", models, name="1-general", of=records(9), finished=False)
    html, _ = pages(run)
    assert "Stage 1-general is not finished: its last record is that of step 9" in html


@pytest.mark.parametrize("name", ["results.json", "identity.json", "environment.json"])
@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff"])
def test_a_damaged_file_is_said_and_the_rest_shown(models, tmp_path, name, content):
    run = write_run(tmp_path, models, measured=results())
    (run / name).write_bytes(content)
    html, _ = pages(run)
    assert f"{name} cannot be read" in html
    assert "Losses by term" in html


@pytest.mark.slow
def test_names_are_drawn_as_text_and_not_as_markup(models, tmp_path):
    run = write_run(tmp_path, models, measured=results())
    told = json_of(run / "results.json")
    told["models"]["<script>x</script> & | `y` $z$"] = told["models"]["teacher"]
    (run / "results.json").write_text(to_json(told), encoding="utf-8")
    html, markdown = pages(run)
    assert "<script" not in html
    assert r"\<script\>x\</script\> & \| \`y\` $z$" in markdown


def test_values_that_are_not_finite_leave_gaps(models, tmp_path):
    """JSON has no word for them: they were written as null."""
    lines = records()
    lines[4]["loss/total"] = None
    html, _ = pages(write_run(tmp_path, models, of=lines))
    assert "NaN" not in html


@pytest.mark.slow
def test_a_long_run_is_drawn_thinned(models, tmp_path):
    html, _ = pages(write_run(tmp_path, models, of=[record(step) for step in range(1, 2001)]))
    assert len(html) < 600_000


def test_a_figure_is_drawn_alike_each_time():
    """Ids and all, so that two reports of one run differ in their date alone."""
    picture = layer_picture("a", [0, 2], 4, "x")
    assert picture == layer_picture("a", [0, 2], 4, "x")
    # A file of its own has each colour as a plain one, too, for what knows no custom properties.
    svg = as_file(picture.wide)
    assert 'viewBox="-12 -12 784 214"' in svg
    assert "var(--student)" in svg
    assert svg.count("var(--") == len(re.findall(r"([\w-]+):#[0-9a-f]{6};\1:var\(--", svg))
