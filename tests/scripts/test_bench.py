"""What the benchmark compares computes the same, and its one object has what it promises."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from forked_scripts import forked
from tiny_experiments import ENVIRONMENT, MAX_LENGTH, relative_difference

from distilcli.config.reading import load_masked_lm_experiment
from distilcli.distillation.masked_lm_parts import assemble_unsaved
from distilcli.training.processes import make_accelerator

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS / "benchmarks"))

import bench  # noqa: E402
import same_speed  # noqa: E402
import scaling  # noqa: E402
from contestants import Packed, Padded, PaddedBf16, TextBrewer  # noqa: E402
from same_speed import Times, figures  # noqa: E402

SEQUENCES = 8
SETTINGS = [
    "teacher.precision=fp32",
    "train.precision=fp32",
    "student.dropout=0",
    "student.attention_dropout=0",
    f"train.global_batch_size={SEQUENCES}",
    # All sequences in one batch: the padded ones average over batches.
    f"train.tokens_per_micro_batch={SEQUENCES * MAX_LENGTH}",
]
needs_textbrewer = pytest.mark.skipif(
    importlib.util.find_spec("textbrewer") is None, reason="textbrewer is not installed"
)


@pytest.fixture
def contestant_of(tiny_world, tmp_path):
    def make(kind, *settings: str):
        experiment = load_masked_lm_experiment(
            tiny_world.config, [*SETTINGS, *settings, f"output_dir={tmp_path}"]
        )
        accelerator = make_accelerator(experiment)
        parts = assemble_unsaved(experiment, accelerator.device)
        return kind(experiment, parts, accelerator), parts.student

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


def gradient(contestant_of, kind, *settings: str) -> dict[str, torch.Tensor]:
    """Of the first step, as the optimiser is given it."""
    contestant, student = contestant_of(kind, *settings)
    optimizer = contestant.stepper.optimizer if kind is Packed else contestant.optimizer
    found: dict[str, torch.Tensor] = {}

    def remember(*_) -> None:
        found.update({name: p.grad.clone() for name, p in student.named_parameters()})

    optimizer.register_step_pre_hook(remember)
    contestant.read(0)
    contestant.step(0)
    return found


@pytest.mark.slow
def test_the_padded_baseline_has_the_same_loss(contestant_of):
    contestants = [contestant_of(kind)[0] for kind in (Packed, Padded, PaddedBf16)]
    for contestant in contestants:
        contestant.read(0)
    packed, padded, in_bf16 = (contestant.step(0) for contestant in contestants)
    assert packed == pytest.approx(padded, rel=1e-5)
    assert in_bf16 == pytest.approx(padded, rel=1e-2)
    assert in_bf16 != padded


def test_the_padded_baseline_has_the_same_gradient(contestant_of):
    packed, padded = (gradient(contestant_of, kind) for kind in (Packed, Padded))
    assert relative_difference(packed, padded) < 1e-5
    other = gradient(contestant_of, Padded, "loss.hidden_cosine.weight=0")
    assert relative_difference(other, padded) > 1e-3


@needs_textbrewer
@pytest.mark.filterwarnings("ignore")
def test_textbrewer_has_the_same_gradient(contestant_of):
    padded, theirs = (gradient(contestant_of, kind) for kind in (Padded, TextBrewer))
    assert relative_difference(theirs, padded) < 1e-5


@pytest.fixture
def printed(monkeypatch, capsys):
    """The object that the `main` of a script prints; what it measures has processes of its own."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    def call(main: Callable[[list[str]], None], arguments: list[str]) -> dict:
        main([*arguments, "--json"])
        return json.loads(capsys.readouterr().out)

    return call


@pytest.mark.slow
def test_one_object(tiny_world, printed, monkeypatch):
    """`bench.py --json` prints one object with a table and the ratios of its rows."""
    monkeypatch.setattr(bench, "_contestants", lambda device: ["padded", "all", "masked"])
    monkeypatch.setattr(bench, "subprocess", forked)
    arguments = ["--teacher", str(tiny_world.teacher), "--text", str(tiny_world.text)]
    arguments += ["--max-length", str(MAX_LENGTH), "--micro-batch", "200", "--sequences", "4"]
    arguments += ["--rounds", "2", "--threads", "1", "--dropout", "0"]
    report = printed(bench.main, arguments)
    for key in ("ratio_all", "ratio_masked", "memory_ratio", "floor_share"):
        assert report[key] > 0
    [table] = report["tables"]
    assert len(table["rounds"]) == 2
    tokens = [
        {name: figures["tokens"] for name, figures in each.items()} for each in table["rounds"]
    ]
    assert all(len(set(each.values())) == 1 for each in tokens)
    work = {name: figures["gflop"] for name, figures in table["rounds"][0].items()}
    assert work["masked"] < work["all"] == work["padded"]


@pytest.mark.slow
def test_scaling_of_processes(printed, monkeypatch):
    """`scaling.py --json` compares one process, under torchrun, with two on the same steps."""
    monkeypatch.setattr(scaling, "subprocess", forked)
    arguments = ["--size", "small", "--cores", "2", "--rounds", "1", "--steps", "1"]
    arguments += ["--sequences", "4"]
    report = printed(scaling.main, arguments)
    one, two = report["rounds"].values()
    assert one[0]["tokens"] == two[0]["tokens"] > 0  # the same steps, however many take them
    assert list(report["tokens_per_second"]) == ["1 process x 2 threads", "2 processes x 1 thread"]
    assert report["ratio"] == pytest.approx(one[0]["together"] / two[0]["together"])
    assert report["share_of_adding_up"] == pytest.approx(1 - two[0]["apart"] / two[0]["together"])


def test_ratios_of_two_checkouts_are_those_of_their_medians():
    """Above 1 the second one is faster; a round that something else disturbed counts for little."""
    before = [Times(cpu, 2 * cpu) for cpu in (2.0, 2.0, 50.0)]
    after = [Times(cpu, cpu) for cpu in (1.0, 1.6, 1.6)]
    found = figures([before, after])
    assert found["cpu_seconds"] == [2.0, 1.6]
    assert found["cpu_seconds_ratio"] == 1.25
    assert found["wall_seconds_ratio"] == 2.5


@pytest.mark.slow
def test_two_checkouts_take_steps_in_turns(printed, monkeypatch):
    """`same_speed.py --json` compares a checkout with itself, and leaves no process behind."""
    monkeypatch.setattr(same_speed, "subprocess", forked)
    monkeypatch.setattr(same_speed, "NUM_LINES", 400)
    monkeypatch.setattr(same_speed, "SEQUENCES", 4)
    root = str(SCRIPTS.parent)
    arguments = [root, root, "--sizes", "small", "--rounds", "2"]
    found = printed(same_speed.main, arguments)["sizes"]["small"]
    assert all(seconds > 0 for seconds in found["cpu_seconds"] + found["wall_seconds"])
    assert found["peak_gib"][0] == pytest.approx(found["peak_gib"][1], rel=0.1)


# Stands for the package in a checkout.
STUB = """
import sys, time
from pathlib import Path
settings = dict(word.split("=") for word in sys.argv if "=" in word)
metrics = Path(settings["output_dir"]) / settings["name"] / "metrics.jsonl"
metrics.parent.mkdir()
held = b'x' * MEMORY
while True:
    end = time.process_time() + SECONDS
    while time.process_time() < end:
        pass
    with metrics.open("a") as file:
        file.write("{}\\n")
"""


def test_each_checkout_runs_its_own_package(tmp_path, printed, monkeypatch):
    """The second one takes steps of a tenth of the time, and holds more memory."""
    for name, seconds, memory in (("before", 0.2, 0), ("after", 0.02, 2**27)):
        package = tmp_path / name / "distilcli"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        stub = STUB.replace("SECONDS", str(seconds)).replace("MEMORY", str(memory))
        (package / "__main__.py").write_text(stub, encoding="utf-8")
    monkeypatch.setattr(same_speed, "write_teacher", lambda *_: "T")
    arguments = [str(tmp_path / name) for name in ("before", "after")]
    arguments += ["--sizes", "small", "--rounds", "3"]
    found = printed(same_speed.main, arguments)["sizes"]["small"]
    assert found["cpu_seconds_ratio"] > 1
    assert found["peak_gib"][1] - found["peak_gib"][0] > 0.1
