"""What a step must cost by reckoning, and the table of a GPU as far as a CPU can show it."""

import argparse
import sys
import time
from pathlib import Path

import pytest
from transformers import BertConfig, DistilBertConfig

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS / "benchmarks"))

import gpu_table  # noqa: E402
import reckoning  # noqa: E402

TEACHER = reckoning.Shape.of(BertConfig())
STUDENT = reckoning.Shape.of(DistilBertConfig())


# What a step must cost


def test_shapes_are_read_from_configurations():
    assert reckoning.Shape(12, 768, 3072, 30522) == TEACHER
    assert reckoning.Shape(6, 768, 3072, 30522) == STUDENT


@pytest.mark.parametrize(
    ("length", "share", "gflop"),
    [(128, 1.0, 0.629), (128, 0.15, 0.465), (512, 1.0, 0.664), (512, 0.15, 0.501)],
)
def test_gflop_a_token_of_bert_base_to_six_layers(length, share, gflop):
    found = reckoning.step_gflop(TEACHER, STUDENT, [length] * 3, share) / (3 * length)
    assert found == pytest.approx(gflop, abs=0.0005)


def test_gflop_of_one_token_by_hand():
    """One layer of width 2 and 3, two pieces: every product written out."""
    shape = reckoning.Shape(layers=1, hidden=2, inner=3, vocab_size=5)
    projections, scores_and_values = 4 * 2 * 2 * 2, 2 * 2 * 2 * 7
    feed_forward, head = 2 * 2 * 2 * 3, 2 * 2 * 2 + 2 * 2 * 5
    expected = projections + scores_and_values + feed_forward + head
    assert reckoning.token_flop(shape, length=7, share=1.0) == expected
    assert reckoning.token_flop(shape, length=7, share=0.5) == expected - head / 2


def test_the_table_has_the_floor_and_the_shares_of_the_peak(capsys):
    reckoning.main(["--lengths", "128", "--tflops", "989", "--tbytes", "1e9"])
    lines = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[:3] == ["all", "128", "0.629"]
    assert cells[4] == "1,573"  # 989 TFLOP/s over 0.6287 GFLOP: memory costs next to nothing
    assert cells[-1] == "708"


def test_bytes_grow_with_the_share_of_positions():
    everywhere, masked = (reckoning.token_bytes(TEACHER, STUDENT, s) for s in (1.0, 0.15))
    assert everywhere - masked == pytest.approx(0.85 * 30522 * reckoning.LOGIT_BYTES)


# The table


def test_rows_have_names_of_their_own():
    names = [row.name for row in gpu_table.ROWS]
    assert len(set(names)) == len(names)
    assert names[0] == "distilcli, all positions, compiled, dropout 0.1, 128 tokens, 32k"
    assert "padded bf16, dropout 0.1, 512 tokens, 16k" in names


def test_a_row_has_the_medians_of_its_timed_steps():
    step = {"tokens": 100, "gflop": 989.0, "peak_gflops": 2000.0, "memory_gib": 1.0, "loss": 3.0}
    found = gpu_table._figures([step | {"seconds": seconds} for seconds in (1.0, 2.0, 8.0)])
    assert found["tokens_per_second"] == 50.0
    assert found["of_measured"] == pytest.approx(989 / 2 / 2000)
    assert found["of_peak"] == pytest.approx(0.989 / 2 / 989)
    assert found["slowest_step_seconds"] == 8.0
    line = gpu_table.show([{"row": "one", **found}]).splitlines()[-1]
    assert line == "| one | 50 | 1.0 | 0.5 | 0.1% | 24.7% of 2.0 | 4.00 |"


def test_steps_have_the_same_tokens_whatever_the_length(tmp_path):
    options = argparse.Namespace(tokens=None, size="base", device="cuda")
    tasks = [gpu_table.task_of(row, options, tmp_path, "T", "X") for row in gpu_table.ROWS]
    assert {task.sequences * task.max_length for task in tasks} == {131_072}
    assert {task.micro_batch for task in tasks} == {16_384, 32_768, 65_536}
    assert all(task.experiment("all")["train"]["max_steps"] == 6 for task in tasks)


# Stands for the process of a row: the one of 16k says nothing, the one of 64k fails.
STUB = """
import json, sys, time
row, task = json.loads(sys.argv[2])
sys.stdin.readline()
if row["micro_batch"] == 16:
    time.sleep(60)
step = {"tokens": 100, "gflop": 989.0, "peak_gflops": 2000.0, "memory_gib": 1.0, "loss": 3.0}
for place, _ in enumerate(sys.stdin):
    if row["micro_batch"] == 64 and place == 4:
        raise SystemExit("no memory")
    print(json.dumps(step | {"seconds": 0.5 if place >= task["warm_up"] else 9.0}), flush=True)
"""


def test_a_row_that_fails_or_hangs_takes_no_other_with_it(tmp_path, monkeypatch, capsys):
    stub = tmp_path / "stub.py"
    stub.write_text(STUB, encoding="utf-8")
    monkeypatch.setattr(gpu_table, "__file__", str(stub))
    monkeypatch.setattr(gpu_table, "write_teacher", lambda *_: "T")
    monkeypatch.setattr(gpu_table, "write_whole_text", lambda _: "X")
    rows = [gpu_table.Row("all", 128, k, 0.1, True) for k in (16, 64, 32)]
    options = argparse.Namespace(tokens=None, size="base", device="cuda", least=0, row_seconds=0.2)
    [hanging] = gpu_table.measure_all(rows[:1], options, tmp_path, time.monotonic() + 1e6)
    assert (hanging["error"], "tokens_per_second" in hanging) == ("no answer in time", False)
    options.row_seconds = 1e6
    failing, good = gpu_table.measure_all(rows[1:], options, tmp_path, time.monotonic() + 1e6)
    # What it took before it failed stands there, too.
    assert (failing["error"], failing["tokens_per_second"]) == ("ended with 1: no memory", 200.0)
    assert ("error" in good, good["tokens_per_second"]) == (False, 200.0)
    assert capsys.readouterr().err.count("| distilcli, all positions") == 3
    over = gpu_table.measure_all(rows, options, tmp_path, time.monotonic() - 1)
    assert {row["error"] for row in over} == {"not begun: the time is over"}
