"""`train --report`: the page is there when training ends, and goes with the run."""

import json

import pytest
from report_runs import assert_sound
from shell_commands import done
from tiny_experiments import run


@pytest.mark.slow
def test_training_writes_its_report_at_the_end(tiny_world, tmp_path):
    """One that another command wrote is replaced; --force removes it with what it was about."""
    words = [f"output_dir={tmp_path}", "train.max_steps=2", "train.log_every=1"]
    config = ["--config", str(tiny_world.config), *words]
    finished = done("train", *config, "--report", "--json")
    page, text = tmp_path / "tiny" / "report.html", tmp_path / "tiny" / "report.md"
    told = json.loads(finished.stdout)
    assert (told["report"], told["markdown"]) == (str(page), str(text))
    html = page.read_text(encoding="utf-8")
    assert_sound(html)
    assert "Training has not begun" not in html
    assert text.exists()
    assert (tmp_path / "tiny" / "report-figures" / "losses.svg").exists()
    done("train", *config, "--force")
    assert not page.exists()
    assert not text.exists()
    assert not (tmp_path / "tiny" / "report-figures").exists()
    page.write_text("<p>of someone else</p>", encoding="utf-8")
    refused = run("train", *config, "--resume", "--report")
    assert refused.code == 2
    assert "nothing in it says that distilcli wrote it" in refused.stderr
