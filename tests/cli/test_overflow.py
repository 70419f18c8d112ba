"""A loss that is not finite ends `train` with the step and the sample, and changes nothing."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from refusals import invoke, refused
from tiny_experiments import RARE_WORD, bert, documents, save, word_tokenizer

from distilcli.corpus.store import TokenStore

pytestmark = pytest.mark.usefixtures("alone_and_offline")


@pytest.fixture
def poisoned(tiny_world, tmp_path) -> Path:
    """An experiment whose teacher overflows on one word, which one line of text has."""
    lines = documents(60)
    lines[30] = lines[30].replace(".", f"{RARE_WORD} {RARE_WORD} {RARE_WORD} .")
    text = tmp_path / "poisoned.txt"
    text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    teacher = bert(tie_word_embeddings=False)
    word = word_tokenizer().convert_tokens_to_ids(RARE_WORD)
    with torch.no_grad():
        row = teacher.bert.embeddings.word_embeddings.weight[word]
        row.fill_(3e38)[::2].neg_()  # finite, but no difference of two of them is
    save(teacher, tmp_path / "teacher")
    data = tiny_world.experiment()["data"] | {"store": str(tmp_path / "store")}
    data |= {"sources": [{"files": str(text), "documents": "line"}], "held_out_fraction": 0.0}
    return tiny_world.write_config(
        tmp_path / "own.yaml",
        data=data,
        teacher={"model": str(tmp_path / "teacher")},
        student={"kind": "random"},
        masking={"random_share": 0.0},
        output_dir=str(tmp_path / "runs"),
    )


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_before_the_update(poisoned, tmp_path):
    """The step and the sample are named, and what was reached before is intact."""
    assert invoke("prepare", "--config", str(poisoned), "--num-proc", "1").exit_code == 0
    train_split = TokenStore.open(tmp_path / "store").train
    word = word_tokenizer().convert_tokens_to_ids(RARE_WORD)
    [sample] = [i for i in range(len(train_split)) if word in train_split.tokens(i)]

    settings = ["train.max_steps=200", "train.save_every=1"]
    arguments = ["train", "--config", str(poisoned), *settings]
    stderr = refused(*arguments, code=1, words=[f"sample {sample} of the training split", "step "])
    assert "not updated" in stderr
    step = int(stderr.partition("error: step ")[2].partition(":")[0])
    assert step > 1  # so there is a checkpoint before it
    checkpoints = tmp_path / "runs" / "tiny" / "checkpoints"
    newest = max(checkpoints.glob("step-*"))
    assert newest.name == f"step-{step - 1:08d}"
    assert not (tmp_path / "runs" / "tiny" / "student").exists()

    before = {path: path.read_bytes() for path in newest.iterdir()}
    AcceleratorState._reset_state(reset_partial_state=True)
    again = refused(*arguments, "--resume", code=1, words=[f"step {step}:", f"sample {sample} "])
    assert f"resumed after step {step - 1}" in again
    assert before == {path: path.read_bytes() for path in newest.iterdir()}


@pytest.mark.slow
def test_steps_after_a_gradient_that_is_not_finite_leave_no_trace(poisoned, tmp_path):
    """It is found at the next log line; until then steps go on, and change nothing."""
    assert invoke("prepare", "--config", str(poisoned), "--num-proc", "1").exit_code == 0
    arguments = ["train", "--config", str(poisoned), "train.max_steps=200"]
    often = [*arguments, "train.save_every=1", "name=often"]
    stderr = refused(*often, code=1, words=["step "])
    AcceleratorState._reset_state(reset_partial_state=True)
    step = int(stderr.partition("error: step ")[2].partition(":")[0])
    seldom = [*arguments, f"train.log_every={step + 5}", "train.save_every=1000", "name=seldom"]
    assert (
        stderr.partition("error: ")[2]
        == refused(*seldom, code=1, words=["sample"]).partition("error: ")[2]
    )
    assert not (tmp_path / "runs" / "seldom" / "metrics.jsonl").exists()
    assert not (tmp_path / "runs" / "seldom" / "checkpoints").exists()
