"""Training on plain text from a teacher without a masked-LM head, through all commands."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from disturbed_runs import command, finish, kill_at, run_folder
from refusals import invoke
from tiny_experiments import bert, metrics, run, save, weights
from tiny_tasks import make_tasks
from transformers import AutoModel, BertModel, DistilBertModel

STEPS = ["train.max_steps=6", "train.save_every=2", "validation.every=3"]
UNUSED = [f"loss.{name}.weight=0" for name in ("soft_targets", "masked_lm", "hidden_cosine")]
TERMS = ["loss.hidden_states.weight=1", "loss.attention_relations.weight=0.5"]
AS_IT_IS = ["masking.mlm_probability=0"]
# Of the world's store: another seed of masks changes nothing in it.
NAMES = ["hidden_states", "attention_relations"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A BERT as AutoModel has it, with a pooler and without a head."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = BertModel(bert().config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return save(model, tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def settings(encoder, tiny_world) -> list[str]:
    return [*STEPS, *UNUSED, *TERMS, *AS_IT_IS, f"teacher.model={encoder}"]


@pytest.fixture(scope="module")
def folder(tiny_world, settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    finish(command(tiny_world, folder, *settings))
    return folder


def held_out(folder: Path) -> list[dict[str, float]]:
    found = [
        {key: value for key, value in record.items() if key.startswith("held_out/")}
        for record in metrics(run_folder(folder))
    ]
    return [scores for scores in found if scores]


def test_the_student_is_a_plain_encoder(folder):
    student, info = AutoModel.from_pretrained(
        run_folder(folder) / "student", output_loading_info=True
    )
    assert not any(info.values())
    assert type(student) is DistilBertModel
    assert student.config.n_layers == 2
    assert all(bool(weight.isfinite().all()) for weight in student.parameters())


def test_held_out_scores_are_the_means_of_the_terms(folder):
    first, last = held_out(folder)
    assert first.keys() == {"held_out/loss", *(f"held_out/{name}" for name in NAMES)}
    for scores in (first, last):
        means = [scores[f"held_out/{name}"] for name in NAMES]
        assert scores["held_out/loss"] == pytest.approx(means[0] + 0.5 * means[1])
    assert last["held_out/loss"] < first["held_out/loss"]


def test_eval_measures_by_the_same_terms(folder, tiny_world, settings, tmp_path):
    arguments = ["eval", str(run_folder(folder)), "--output", str(tmp_path), "--json"]
    told = finish([*arguments, "--no-speed", "--num-sequences", "20"]).json
    teacher, at_start, trained = told["models"].values()
    assert teacher["scores"] is None
    last = held_out(folder)[-1]
    for name in ("loss", *NAMES):
        assert trained["scores"][name] == pytest.approx(last[f"held_out/{name}"], rel=1e-4)
    assert trained["scores"]["loss"] < at_start["scores"]["loss"]
    assert teacher["parameters"] > trained["parameters"]
    assert json.loads((tmp_path / "results.json").read_text()) == {
        key: value for key, value in told.items() if key != "results"
    }
    shown = finish(arguments[:-1]).stdout
    for word in ("hidden states", "attention relations", "latency, ms", "held-out tokens"):
        assert word in shown
    assert "accuracy" not in shown


def test_nothing_of_the_text_is_hidden(folder, tiny_world, settings, tmp_path):
    """Masks of another seed are the same none: the same batches have the same losses."""
    records = metrics(run_folder(folder))
    assert all(record["loss/hidden_states"] > 0 for record in records)
    masked = [*settings, "masking.mlm_probability=0.4", "train.max_steps=1"]
    finish(command(tiny_world, tmp_path, *masked))
    [other] = metrics(run_folder(tmp_path))
    assert other["loss/hidden_states"] != records[0]["loss/hidden_states"]


def test_a_dry_run_finds_nothing_wrong_and_eval_of_text_works(
    folder, tiny_world, settings, tmp_path, monkeypatch
):
    told = finish([*command(tiny_world, tmp_path, *settings, "--dry-run"), "--json"]).json
    assert (told["teacher_loss"], told["unigram_loss"]) == (None, None)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = ["--text", str(tiny_world.text), "--documents", "line", "--no-speed", "--json"]
    *_, trained = finish(["eval", str(run_folder(folder)), *text]).json["models"].values()
    assert trained["scores"]["loss"] > 0


@pytest.mark.slow
def test_killed_and_resumed_it_ends_the_same(folder, tiny_world, settings, tmp_path):
    arguments = command(tiny_world, tmp_path, *settings)
    kill_at(3, tmp_path, *arguments)
    finish([*arguments, "--resume"])
    assert weights(run_folder(tmp_path)) == weights(run_folder(folder))
    assert metrics(run_folder(tmp_path)) == metrics(run_folder(folder))


@pytest.mark.slow
def test_two_processes_train_the_same_student(tiny_world, settings, tmp_path):
    """But for rounding: sums are added in another order; also of relations alone."""
    still = ["student.dropout=0", "student.attention_dropout=0", "loss.hidden_states.weight=0"]
    found = []
    for number in (1, 2):
        arguments = command(tiny_world, tmp_path / str(number), *settings, *still)
        finish(arguments, num_processes=number)
        student = AutoModel.from_pretrained(run_folder(tmp_path / str(number)) / "student")
        found.append((student.state_dict(), held_out(tmp_path / str(number))[-1]))
    for name, weight in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], weight, rtol=1e-4, atol=1e-5)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-4)


@pytest.mark.slow
def test_init_student_and_a_part_of_the_vocabulary(tiny_world, settings, tmp_path):
    vocabulary = "student.vocabulary.keep=75"
    places = ["--config", str(tiny_world.config), f"output_dir={tmp_path}"]
    arguments = [*places, *settings, vocabulary, f"data.store={tmp_path}/store"]
    told = finish(["init-student", *arguments, "--json"]).json
    assert told["parameters"]["student"] < told["parameters"]["teacher"]
    shown = finish(["init-student", *arguments, "--force"]).stdout
    assert "layer 1" in shown
    assert "masked-LM head" not in shown
    start = AutoModel.from_pretrained(run_folder(tmp_path) / "initial-student")
    assert start.config.vocab_size == 75
    finish(["train", *arguments])
    told = finish(["eval", str(run_folder(tmp_path)), "--no-speed", "--json"]).json
    _, at_start, trained = told["models"].values()
    assert trained["scores"]["loss"] < at_start["scores"]["loss"]


@pytest.mark.parametrize("terms", [TERMS, TERMS[:1]])
def test_eval_says_which_terms_a_narrower_student_has_no_projection_for(
    tiny_world, settings, tmp_path, monkeypatch, terms
):
    """The sum goes with them: without some of its terms it could not be compared."""
    monkeypatch.chdir(tmp_path)
    relations = f"loss.attention_relations.weight={0.5 * (terms == TERMS)}"
    narrow = ["student.hidden_size=16", "train.max_steps=1", "validation.every=0"]
    trained = invoke(*command(tiny_world, tmp_path, *settings, *narrow, relations))
    assert trained.exit_code == 0, trained.stderr
    arguments = ["eval", str(run_folder(tmp_path)), "--no-speed", "--num-sequences", "20"]
    told = json.loads(invoke(*arguments, "--json").stdout)["models"]
    names = {"attention_relations"} if terms == TERMS else set()
    assert [set(told[f"tiny {which}"]["scores"] or {}) for which in ("at start", "trained")] == [
        names,
        names,
    ]
    said = [line for line in invoke(*arguments).stdout.splitlines() if "without the sum" in line]
    assert [line.split(", ")[0] for line in said] == [
        "tiny at start: without hidden_states",
        "tiny trained: without hidden_states",
    ]


def test_a_task_starts_from_such_a_student_with_a_new_head(folder, tmp_path):
    tasks = make_tasks(tmp_path / "tasks")
    student = tmp_path / "student"
    shutil.copytree(run_folder(folder) / "student", student)
    section = {"kind": "checkpoint", "model": str(student)}
    config = tasks.write_config(
        tmp_path / "task.yaml", "regression", student=section, output_dir=str(tmp_path / "runs")
    )
    told = finish(["train", "--config", str(config), "train.num_epochs=1", "--json"]).json
    assert told["held_out"]["held_out/pearson_spearman"] > 0


def test_a_stage_that_predicts_tokens_gives_such_a_student_a_new_head(
    tiny_world, encoder, tmp_path
):
    """First states of a body alone, then logits of another teacher, which has a head."""
    settings = tiny_world.experiment() | {"name": "staged", "output_dir": str(tmp_path)}
    settings["train"] = settings["train"] | {"max_steps": 2, "save_every": 2}
    settings["validation"] = {"every": 0, "num_sequences": 20}
    weights = {"soft_targets": 0, "masked_lm": 0, "hidden_cosine": 0, "hidden_states": 1}
    loss = {name: {"weight": weight} for name, weight in weights.items()}
    body = {"name": "body", "teacher": {"model": str(encoder)}, "loss": loss}
    settings["stages"] = [body, {"name": "tokens"}]
    config = tmp_path / "staged.yaml"
    config.write_text(yaml.safe_dump(settings))
    told = finish(["train", "--config", str(config), "--json"]).json
    assert 0 <= told["held_out"]["held_out/accuracy"] <= 1
    of_body, of_tokens = (Path(one["student"]) for one in told["stages"])
    assert type(AutoModel.from_pretrained(of_body)) is DistilBertModel
    assert json.loads((of_tokens / "config.json").read_text())["architectures"] == [
        "DistilBertForMaskedLM"
    ]


def test_a_head_is_asked_for_where_a_term_looks_at_logits(tiny_world, encoder, tmp_path):
    for weight in ("loss.soft_targets.weight=1", "loss.masked_lm.weight=1"):
        several = [*UNUSED, *TERMS, weight, f"teacher.model={encoder}"]
        finished = run(*command(tiny_world, tmp_path, *several, "--dry-run"))
        assert finished.code == 2
        assert "it has no masked-LM head" in finished.stderr
        assert "loss.hidden_states" in finished.stderr


def test_without_masks_no_term_may_look_at_logits(tiny_world, encoder, tmp_path):
    finished = run(*command(tiny_world, tmp_path, *AS_IT_IS))
    assert finished.code == 2
    assert "masking.mlm_probability 0 leaves no token to predict" in finished.stderr
    assert list(tmp_path.iterdir()) == []
