"""The commands from prepare to eval on a tiny experiment, as a shell sees them."""

import gzip
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tiny_experiments
import torch
from safetensors.torch import load_file
from tiny_experiments import (
    WORDS,
    Finished,
    TinyWorld,
    bert,
    environment,
    listing,
    metrics,
    relative_difference,
    run,
    save,
)
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertModel, pipeline

from distilcli import __version__
from distilcli.cli import app, launch
from distilcli.config.reading import load
from distilcli.corpus.store import TokenStore
from distilcli.models.copying import copy_layers
from distilcli.models.loading import load_masked_lm

COMMANDS = list(app.COMMANDS)
# What --help must not wait for.
HEAVY = ["torch", "transformers", "datasets", "accelerate", "pydantic", "numpy", "pyarrow", "rich"]


def command(name: str, config: Path, folder: Path, *more: str) -> list[str]:
    return [name, "--config", str(config), f"output_dir={folder}", *more]


def done(*arguments: str) -> Finished:
    finished = run(*arguments)
    assert finished.code == 0, finished.stderr
    return finished


def trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "tiny" / "student" / "model.safetensors")


# The whole flow, with tables for people and with one object for programs


class Flow:
    """Every command once, in order, in a folder of its own."""

    def __init__(self, world: TinyWorld, folder: Path, *flags: str) -> None:
        self.folder = folder
        data = world.experiment()["data"] | {"store": str(folder / "store")}
        settings = {"data": data, "output_dir": str(folder / "runs"), "name": "whole"}
        config = str(world.write_config(folder / "own.yaml", **settings))
        self.run_folder = folder / "runs" / "whole"
        self.prepare = done("prepare", "--config", config, "--num-proc", "1", *flags)
        self.prepare_again = done("prepare", "--config", config, "--num-proc", "1", *flags)
        self.init_student = done("init-student", "--config", config, *flags)
        before = listing(folder)
        self.dry_run = done("train", "--config", config, "--dry-run", *flags)
        self.written_by_dry_run = listing(folder).items() ^ before.items()
        self.train = done("train", "--config", config, *flags)
        self.eval = done("eval", "--config", config, *flags)


@pytest.fixture(scope="module")
def for_people(tiny_world, tmp_path_factory) -> Flow:
    return Flow(tiny_world, tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def for_programs(tiny_world, tmp_path_factory) -> Flow:
    return Flow(tiny_world, tmp_path_factory.mktemp("programs"), "--json")


@pytest.mark.slow
def test_prepare(for_people, for_programs):
    """`prepare` shows what is in the token store, and prints it as JSON."""
    assert "token store" in for_people.prepare.stdout
    assert "held out" in for_people.prepare.stdout
    result = for_programs.prepare.json
    assert result["train"]["sequences"] > 100
    assert result["held_out"]["sequences"] > 10
    assert Path(result["store"], "manifest.json").exists()


@pytest.mark.slow
def test_prepare_twice_does_nothing(for_people, for_programs):
    assert "already prepared" in for_people.prepare_again.stderr
    assert for_people.prepare_again.stdout == for_people.prepare.stdout
    assert for_programs.prepare_again.json == for_programs.prepare.json


def test_init_student(for_people, for_programs):
    """`init-student` shows layers, sizes and losses, and prints them as JSON."""
    assert "layer 1" in for_people.init_student.stdout
    assert "smaller than the teacher" in for_people.init_student.stdout
    result = for_programs.init_student.json
    assert result["layers"] == [0, 2]
    assert result["parameters"]["student"] < result["parameters"]["teacher"]
    assert 0 < result["smaller"] < 1
    assert result["megabytes"]["student"] == pytest.approx(
        4 * result["parameters"]["student"] / 1e6
    )
    losses = {name: scores["loss"] for name, scores in result["held_out"].items()}
    assert losses["teacher"] < losses["student"]


def test_dry_run_writes_nothing(for_people, for_programs):
    for flow in (for_people, for_programs):
        assert flow.written_by_dry_run == set()
    assert "nothing was written" in for_people.dry_run.stdout
    result = for_programs.dry_run.json
    assert result["num_processes"] == 1
    assert result["total_steps"] == 24
    assert len(result["losses"]) == 2
    assert result["teacher_loss"] < result["unigram_loss"]
    # The two steps are the first two of the run.
    records = metrics(for_programs.run_folder)
    assert result["losses"] == [record["loss/total"] for record in records[:2]]


def test_train(for_people, for_programs):
    """`train` records every step; the total is the weighted sum of the terms."""
    assert f"student: {for_people.run_folder / 'student'}" in for_people.train.stdout
    result = for_programs.train.json
    assert result["steps"] == 24
    assert result["already_finished"] is False
    records = metrics(for_programs.run_folder)
    assert [record["step"] for record in records] == list(range(1, 25))
    assert result["tokens"] == sum(record["speed/tokens"] for record in records)
    last = records[-1]
    terms = 5 * last["loss/kl"] + 2 * last["loss/mlm"] + 1 * last["loss/cos"]
    assert last["loss/total"] == pytest.approx(terms)
    assert {"optim/lr", "optim/grad_norm", "held_out/loss", "held_out/agreement"} <= last.keys()
    assert "loss/mse" not in last
    assert last["loss/kl"] < records[0]["loss/kl"]


def test_run_folder(for_people):
    """A finished run holds these files and no others, and its own settings."""
    names = {path.name for path in for_people.run_folder.iterdir()}
    assert names == {
        ".lock",
        "checkpoints",
        "environment.json",
        "experiment.yaml",
        "identity.json",
        "initial-student",
        "metrics.jsonl",
        "results.json",
        "student",
    }
    own = load(for_people.folder / "own.yaml")
    assert load(for_people.run_folder / "experiment.yaml") == own


def test_eval(for_people, for_programs):
    """`eval` shows teacher and students, and writes what it prints as JSON."""
    for row in ("accuracy", "retained", "perplexity", "agreement", "latency", "sequences/s"):
        assert row in for_people.eval.stdout
    result = for_programs.eval.json
    results = for_programs.run_folder / "results.json"
    assert result.pop("results") == str(results)
    assert json.loads(results.read_text()) == result
    models = result["models"]
    assert list(models) == ["teacher", "whole at start", "whole trained"]
    assert models["teacher"]["retained"] == 1.0
    assert models["teacher"]["scores"]["agreement"] == 1.0
    start, trained = models["whole at start"], models["whole trained"]
    assert trained["scores"]["kl"] < start["scores"]["kl"]
    assert trained["scores"]["loss"] < start["scores"]["loss"]
    assert trained["retained"] == pytest.approx(
        trained["scores"]["accuracy"] / models["teacher"]["scores"]["accuracy"]
    )
    for model in models.values():
        assert model["speed"]["latency_ms"] > 0
        assert model["scores"]["num_masked"] == trained["scores"]["num_masked"]


def test_json_is_one_object_and_all_that_is_on_stdout(for_people, for_programs):
    for name in ("prepare", "init_student", "dry_run", "train", "eval"):
        finished: Finished = getattr(for_programs, name)
        assert finished.stdout.count("\n") == 1
        assert isinstance(json.loads(finished.stdout), dict)
        assert "Traceback" not in finished.stderr
        assert "Warning" not in finished.stderr
        assert "Warning" not in getattr(for_people, name).stderr
        assert "{" not in getattr(for_people, name).stdout


def test_output_is_the_same_training(for_people, for_programs):
    assert metrics(for_people.run_folder) == metrics(for_programs.run_folder)


def test_eval_of_a_folder_of_a_run_and_of_a_model(for_people, tiny_world, tmp_path):
    models = [str(for_people.run_folder), str(tiny_world.teacher)]
    arguments = ["--num-sequences", "10", "--output", str(tmp_path), "--json"]
    result = done("eval", *models, *arguments).json
    names = ["teacher", "whole at start", "whole trained", str(tiny_world.teacher)]
    assert list(result["models"]) == names
    scores = [model["scores"] for model in result["models"].values()]
    assert scores[0] == scores[3]
    assert (tmp_path / "results.json").exists()
    student = str(for_people.run_folder / "student")
    alone = done("eval", student, "--config", str(for_people.folder / "own.yaml"), *arguments).json
    assert alone["models"]["whole trained"]["scores"] == scores[2]


def test_student_is_a_plain_transformers_folder(for_people):
    """Loaded without any code of ours."""
    folder = for_people.run_folder / "student"
    model = AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "DistilBertForMaskedLM"
    assert len(tokenizer) == model.config.vocab_size
    [first, *_] = pipeline("fill-mask", model=str(folder))("ba be [MASK] bi bo .")
    assert first["token_str"] in WORDS
    saved = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in saved.values()} == {"torch.float32"}


# init-student without an experiment


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "layers"),
    [
        ([], [0, 2]),
        (["--num-layers", "3", "--strategy", "spread"], [0, 2, 3]),
        (["--strategy", "top"], [2, 3]),
        (["--layers", "3,1,1"], [3, 1, 1]),
    ],
)
def test_init_student_without_a_config(tiny_world, tmp_path, given, layers):
    output = tmp_path / "student"
    arguments = ["--teacher", str(tiny_world.teacher), "--output", str(output)]
    result = done("init-student", *arguments, *given, "--json").json
    assert result["layers"] == layers
    expected = copy_layers(load_masked_lm(str(tiny_world.teacher)), layers)
    found = load_masked_lm(str(output))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    again = run("init-student", *arguments, *given)
    assert again.code == 2
    assert "--force" in again.stderr
    done("init-student", *arguments, *given, "--force")


# Other experiments


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
    resolved = load(tmp_path / "tiny" / "experiment.yaml")
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
    [events] = (tmp_path / "tiny").rglob("events.out.tfevents.*")
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


# Start


def python(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment() | options,
        capture_output=True,
        text=True,
        check=False,
    )


def test_version():
    """`--version` prints the version of the package and nothing else."""
    finished = python("-m", "distilcli", "--version")
    assert (finished.returncode, finished.stdout.strip()) == (0, __version__)


HELP = """
import sys
sys.argv = ["distilcli", *sys.argv[1:]]
from distilcli.cli.app import main
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=str)
def test_help_loads_nothing_heavy(words):
    finished = python("-c", HELP, *words)
    assert finished.returncode == 0
    assert "Usage" in finished.stdout
    loaded = set(finished.stderr.split())
    assert "distilcli" in loaded
    assert loaded & set(HEAVY) == set()


def eval_and_its_imports(marker: str, *arguments: str) -> None:
    try:
        tiny_experiments._main(*arguments)
    finally:
        Path(marker).write_text(" ".join(sys.modules))


def test_no_command_waits_for_pandas(tiny_world, tmp_path):
    """pyarrow imports it for arrays that are taken from it in the usual way."""
    marker = tmp_path / "modules"
    words = [str(tiny_world.teacher), "--config", str(tiny_world.config), "--no-speed"]
    arguments = [str(marker), "eval", *words, "--output", str(tmp_path / "out")]
    finished = tiny_experiments.start_function(eval_and_its_imports, arguments).wait()
    assert finished.code == 0, finished.stderr
    modules = marker.read_text().split()
    assert "pyarrow" in modules
    assert "pandas" not in modules


@pytest.mark.parametrize(
    "words",
    [
        ["prepare"],
        ["train", "--no-such-option"],
        ["no-such-command"],
        ["prepare", "--num-proc", "0"],
    ],
    ids=str,
)
def test_usage_errors(words):
    """A wrong command line shows the usage, with exit code 2."""
    finished = python("-m", "distilcli", *words)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert "Usage" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_without_a_command_there_is_help():
    finished = python("-m", "distilcli")
    assert "Usage" in finished.stdout + finished.stderr
    for name in COMMANDS:
        assert name in finished.stdout + finished.stderr


def test_resume_command_launches_as_the_run_was_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["name=a b", "optim.lr=1e-4"]
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    plain = launch.resume_command(Path("my.yaml"), overrides)
    assert plain == "distilcli train --config my.yaml 'name=a b' optim.lr=1e-4 --resume"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    launched = launch.resume_command(Path("my.yaml"), overrides)
    assert launched == f"torchrun --nproc_per_node 2 -m {plain}"
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    assert launch.resume_command(Path("my.yaml"), overrides) == launched
    of_two_hosts = {"GROUP_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    of_two_hosts |= {"MASTER_ADDR": "first-host", "MASTER_PORT": "29500"}
    for name, value in of_two_hosts.items():
        monkeypatch.setenv(name, value)
    command, comment = launch.resume_command(Path("my.yaml"), overrides).split("  # ")
    assert command == launched.replace(
        "torchrun",
        "torchrun --nnodes 2 --node_rank 0 --master_addr first-host --master_port 29500",
    )
    assert "every other host" in comment
