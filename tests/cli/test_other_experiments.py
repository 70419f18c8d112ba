"""Short runs of `train` with other students, losses and settings, profiles, trackers, --force."""

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shell_commands import command, done
from tiny_experiments import TinyWorld, bert, metrics, relative_difference, run, save
from transformers import BertModel

from distilcli.config.reading import load_masked_lm_experiment
from distilcli.corpus.store import TokenStore
from distilcli.models.loading import load_masked_lm


def trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "tiny" / "student" / "model.safetensors")


def quick(world: TinyWorld, folder: Path, *settings: str, config: Path | None = None) -> list[dict]:
    """Train four steps; the records."""
    short = ["train.max_steps=4", "validation.every=0"]
    done(*command("train", config or world.config, folder, *short, *settings))
    records = metrics(folder / "tiny")
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    return records


def test_without_a_teacher(tiny_world, tmp_path):
    """Plain masked-LM training of copied layers: the no-distillation baseline."""
    source = str(tiny_world.teacher)
    settings = {"teacher": None, "student": {"source": source}}
    config = tiny_world.write_config(tmp_path / "own.yaml", **settings)
    records = quick(tiny_world, tmp_path, config=config)
    for record in records:
        assert not {"loss/kl", "loss/cos", "loss/mse"} & record.keys()
        assert record["loss/total"] == pytest.approx(2 * record["loss/mlm"])
    assert "held_out/loss" in records[-1]
    assert "held_out/agreement" not in records[-1]
    result = done(*command("eval", config, tmp_path, "--json")).json
    assert list(result["models"]) == ["tiny at start", "tiny trained"]
    assert result["models"]["tiny trained"]["retained"] is None
    shown = done(*command("init-student", config, tmp_path / "other", "--json")).json
    assert shown["layers"] == [0, 2]


def test_random_student(tiny_world, tmp_path):
    """A student with random weights and its own depth can be trained."""
    config = tiny_world.write_config(tmp_path / "own.yaml", student={"kind": "random"})
    records = quick(tiny_world, tmp_path, "student.num_layers=1", config=config)
    assert records[0]["loss/mlm"] > 4  # knows nothing yet
    student = load_masked_lm(str(tmp_path / "tiny" / "student"))
    assert student.config.num_hidden_layers == 1


def test_checkpoint_student_with_a_new_head(tiny_world, tmp_path):
    """A BERT without a masked-LM head stays a BERT and gets one."""
    save(BertModel(bert().config), tmp_path / "body")
    student = {"kind": "checkpoint", "model": str(tmp_path / "body"), "new_head": True}
    config = tiny_world.write_config(tmp_path / "own.yaml", student=student)
    quick(tiny_world, tmp_path, config=config)
    student = load_masked_lm(str(tmp_path / "tiny" / "student"))
    assert student.config.model_type == "bert"
    assert student.config.num_hidden_layers == 4


@pytest.mark.slow
def test_profile_writes_a_trace_and_nothing_else(tiny_world, tmp_path):
    arguments = command("train", tiny_world.config, tmp_path, "--profile", "3")
    finished = done(*arguments, "--json")
    trace = tmp_path / "tiny" / "profile" / "trace-1.json.gz"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [trace]
    report = finished.json
    assert (report["steps"], report["trace"]) == (3, str(trace))
    assert (report["kernels"], report["idle_share"]) == ([], None)  # which are of a GPU
    shares = [share for _, share, _ in report["operators"]]
    assert len(shares) == 15
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1.0
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    found = Counter(event["name"] for event in events if event.get("ph") == "X")
    assert len([name for name in found if name.startswith("ProfilerStep")]) == 3
    assert found["aten::addmm"] > 30
    # Which operators are the costliest depends on the machine; that they are in the trace does not.
    for name, _, calls in report["operators"]:
        assert 0 < round(3 * calls) <= found[name]
    again = done(*arguments)  # for people; and a trace is replaced
    assert "3 steps of" in again.stdout
    assert "calls per step" in again.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_compute_the_same(tiny_world, tmp_path):
    """And no micro-batch, whatever its lengths, makes anything compile again."""
    still = ["student.dropout=0", "student.attention_dropout=0"]
    plain = quick(tiny_world, tmp_path / "plain", *still)
    compiled = quick(tiny_world, tmp_path / "compiled", *still, "train.compile=true")
    for one, other in zip(compiled, plain, strict=True):
        assert one["loss/total"] == pytest.approx(other["loss/total"], rel=1e-5)
    graphs = [record["compile/graphs"] for record in compiled]
    assert 0 < graphs[0] == graphs[-1] < 20
    assert "compile/graphs" not in plain[0]


@pytest.mark.slow
def test_logit_mse_and_masked_positions(tiny_world, tmp_path):
    plain = quick(tiny_world, tmp_path / "plain")
    masked = quick(tiny_world, tmp_path / "masked", "loss.positions=masked")
    squared = quick(tiny_world, tmp_path / "mse", "loss.logit_mse.weight=0.1")
    # The first loss of the same weights on the same batch: the mask is the same, so hard targets
    # and cosine are; soft targets look at fewer tokens.
    assert masked[0]["loss/mlm"] == pytest.approx(plain[0]["loss/mlm"], rel=1e-6)
    assert masked[0]["loss/cos"] == pytest.approx(plain[0]["loss/cos"], rel=1e-6)
    assert masked[0]["loss/kl"] != pytest.approx(plain[0]["loss/kl"], rel=1e-3)
    assert squared[0]["loss/mse"] > 0
    assert squared[0]["loss/total"] == pytest.approx(
        plain[0]["loss/total"] + 0.1 * squared[0]["loss/mse"], rel=1e-6
    )
    assert "loss/mse" not in plain[0]


def test_cosine_alone_leaves_the_head_as_it_was(tiny_world, tmp_path):
    records = quick(tiny_world, tmp_path, "loss.soft_targets.weight=0", "loss.masked_lm.weight=0")
    assert not {"loss/kl", "loss/mlm"} & records[0].keys()
    before = load_file(tmp_path / "tiny" / "initial-student" / "model.safetensors")
    after = trained_weights(tmp_path)
    for name in ("vocab_transform.weight", "vocab_layer_norm.weight", "vocab_projector.bias"):
        assert torch.equal(before[name], after[name])
    assert relative_difference(after, before) > 0


def test_validation_off(tiny_world, tmp_path):
    """Without held-out text the student is the last one."""
    data = tiny_world.experiment()["data"] | {"store": str(tmp_path / "store")}
    data["held_out_fraction"] = 0.0
    config = tiny_world.write_config(tmp_path / "own.yaml", data=data)
    arguments = command("train", config, tmp_path, "train.max_steps=4", "--json")
    result = done(*arguments).json
    assert result["held_out"] == {}
    assert result["student_step"] == 4
    assert not any("held_out/loss" in record for record in metrics(tmp_path / "tiny"))
    newest = tmp_path / "tiny" / "checkpoints" / "step-00000004" / "student.safetensors"
    student = trained_weights(tmp_path)
    last = load_file(newest)
    assert all(torch.equal(student[name], last[name]) for name in student)


def test_overrides(tiny_world, tmp_path):
    """They reach the training and are kept in the run folder."""
    settings = ["seed=7", "optim.lr=2e-4", "student.layers=[3]", "optim.warmup_fraction=0"]
    records = quick(tiny_world, tmp_path, *settings)
    assert records[0]["optim/lr"] == pytest.approx(2e-4)
    resolved = load_masked_lm_experiment(tmp_path / "tiny" / "experiment.yaml")
    assert (resolved.seed, resolved.optim.lr) == (7, 2e-4)
    assert load_masked_lm(str(tmp_path / "tiny" / "student")).config.num_hidden_layers == 1


@pytest.mark.slow
def test_epochs(tiny_world, tmp_path):
    """Without max_steps a run is its epochs, to the last sequence, and says how many steps."""
    num_sequences = len(TokenStore.open(tiny_world.store).train)
    steps, left = divmod(2 * num_sequences, 100)
    assert left
    settings = ["train.max_steps=null", "train.num_epochs=2", "train.global_batch_size=100"]
    finished = done(*command("train", tiny_world.config, tmp_path, *settings))
    words = f"steps: {steps + 1} of 100 samples, the last of {left} (2 epochs)"
    assert words in finished.stderr
    records = metrics(tmp_path / "tiny")
    expected = [step * 100 // num_sequences for step in range(steps + 1)]
    assert [record["epoch"] for record in records] == expected


@pytest.mark.slow
def test_force_starts_again(tiny_world, tmp_path):
    """A run folder with another run is kept unless `--force` replaces it."""
    first = quick(tiny_world, tmp_path)
    short = ["train.max_steps=4", "validation.every=0"]
    refused = run(*command("train", tiny_world.config, tmp_path, *short))
    assert refused.code == 2
    done(*command("train", tiny_world.config, tmp_path, *short, "seed=8", "--force"))
    assert metrics(tmp_path / "tiny") != first
    done(*command("train", tiny_world.config, tmp_path, *short, "--force"))
    assert metrics(tmp_path / "tiny") == first


def test_tensorboard(tiny_world, tmp_path):
    """TensorBoard gets the same values as `metrics.jsonl`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = quick(tiny_world, tmp_path, "train.trackers=[tensorboard]")
    [events] = (tmp_path / "tiny" / "tiny").glob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    assert {"loss/total", "loss/kl", "loss/mlm", "loss/cos"} <= set(accumulator.Tags()["scalars"])
    for key in ("loss/total", "loss/kl"):
        written = {event.step: event.value for event in accumulator.Scalars(key)}
        assert written == {r["step"]: pytest.approx(r[key], rel=1e-6) for r in records}


@pytest.mark.slow
def test_what_is_missing_is_made_by_two_processes(tiny_world, tmp_path):
    """Store and initial student are made once, by the first, while the second waits."""
    data = tiny_world.experiment()["data"] | {"store": str(tmp_path / "store")}
    config = tiny_world.write_config(tmp_path / "own.yaml", data=data)
    arguments = command("train", config, tmp_path, "train.max_steps=4", "--json")
    finished = run(*arguments, num_processes=2)
    assert finished.code == 0, finished.stderr
    assert finished.json["steps"] == 4
    assert "2 process(es)" in finished.stderr
