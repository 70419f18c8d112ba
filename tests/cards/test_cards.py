"""Cards of students: what the hub reads of them, what is said, and that nobody's words are lost."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import yaml
from card_runs import make_run, write_results
from huggingface_hub import ModelCard
from tiny_embeddings import write_sentence_files
from tiny_experiments import bert, word_tokenizer
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from distilcli.cards.card import CARD, HERE, Written, metadata_of, name_in_card, write_card
from distilcli.cards.export import Files, card_of_export
from distilcli.cards.export_use import Texts, javascript_code, python_code
from distilcli.cards.facts import facts_of_folder, facts_of_run
from distilcli.cards.measured import in_words
from distilcli.cards.student import card_of
from distilcli.cards.usage import Use
from distilcli.evaluation.result import Table

HUB_PLACE = (
    "/home/me/.cache/hub/models--someone--a-bert/snapshots/0123456789abcdef/model.safetensors"
)
SECRET = "/home/alice/secret"


def masked_lm(teacher: str = "someone/a-bert") -> dict:
    sources = [{"hub": "wikimedia/wikipedia", "subset": "20231101.en"}]
    return {"teacher": {"model": teacher}, "data": {"sources": sources, "store": f"{SECRET}/store"}}


def on_task(**task: object) -> dict:
    rows = {"train": {"files": [f"{SECRET}/train.csv"]}, "dev": {"files": [f"{SECRET}/dev.csv"]}}
    student = {"kind": "checkpoint", "model": f"{SECRET}/start"}
    return {"teacher": {"model": f"{SECRET}/teacher"}, "student": student, "task": rows | task}


def head(kind, **config):
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 24, "vocab_size": len(word_tokenizer())}
    return kind(BertConfig(**(shape | config)))


def loaded(folder: Path) -> ModelCard:
    """As the hub's own client reads it, which raises where the model-index is not valid."""
    card = ModelCard.load(folder / CARD)
    assert yaml.safe_load(card.data.to_yaml()) == metadata_of(folder / CARD)
    return card


def run_code(card: ModelCard, student: Path) -> str:
    """What the code of a card prints, as it stands but for the name of the folder."""
    code = card.text.split("```python\n")[1].split("```")[0]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code.replace(HERE, str(student)), {})
    return printed.getvalue()


def written(run) -> ModelCard:
    assert write_card(run.student, card_of(facts_of_run(run))) is Written.WRITTEN
    return loaded(run.student)


def test_masked_lm_training_from_the_hub_is_said_as_the_hub_wants_it(tmp_path):
    run = make_run(tmp_path / "demo", masked_lm())
    places = {"teacher.model weights": {"place": HUB_PLACE, "digest": "0"}}
    run.identity.write_text(json.dumps(places))
    own = {"accuracy": 0.25, "loss": 4.0, "agreement": 0.5, "num_masked": 7}
    write_results(
        run, own, {"accuracy": 0.5, "loss": 3.0}, text={"store": "s", "split": "held_out"}
    )
    card = written(run)
    assert card.data.base_model == ["someone/a-bert"]
    assert card.data.datasets == ["wikimedia/wikipedia"]
    assert card.data.pipeline_tag == "fill-mask"
    assert card.data.library_name == "transformers"
    assert card.data.model_name == "demo"
    accuracy, loss = card.data.eval_results
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", 0.25)
    assert (loss.metric_type, loss.metric_value) == ("loss", 4.0)
    assert accuracy.dataset_type == "wikimedia/wikipedia"
    assert accuracy.dataset_config == "20231101.en"
    assert "(commit 0123456789ab)" in card.text
    assert "| accuracy | 25.0 % | 50.0 % |" in card.text
    assert "| agreement with the teacher | 50.0 % | - |" in card.text
    assert "2 steps, 200 tokens, 4 s" in card.text
    assert "A CPU, 2 cores" in card.text
    assert 'pipeline("fill-mask"' in card.text
    assert "token_str" in run_code(card, run.student)
    assert "alice" not in card.content
    assert card.data.license is None


def test_a_file_that_is_no_card_says_nothing(tmp_path):
    for text in (
        "",
        "# none",
        "---\n- a\n---\n",
        "---\na: [\n---\n",
        "---\n!!python/name:a\n---\n",
    ):
        (tmp_path / CARD).write_text(text)
        assert metadata_of(tmp_path / CARD) == {}


@pytest.mark.parametrize(
    ("task", "student", "score", "tag", "said"),
    [
        (
            {"kind": "classification", "text_pair": "second"},
            head(BertForSequenceClassification, id2label={0: "no", 1: "yes", 2: "both"}),
            "accuracy",
            "text-classification",
            '{"text": "The first text.", "text_pair": "The second."}',
        ),
        (
            {"kind": "multi-label"},
            head(
                BertForSequenceClassification,
                id2label={0: "a", 1: "b"},
                problem_type="multi_label_classification",
            ),
            "micro_f1",
            "text-classification",
            "top_k=None",
        ),
        (
            {"kind": "regression"},
            head(BertForSequenceClassification, num_labels=1),
            "spearman",
            "text-classification",
            'function_to_apply="none"',
        ),
        (
            {"kind": "reranking"},
            head(BertForSequenceClassification, num_labels=1),
            "ndcg@10",
            "text-ranking",
            '"text_pair": "A document."',
        ),
        (
            {"kind": "tagging"},
            head(BertForTokenClassification, id2label={0: "X", 1: "Y"}),
            "accuracy",
            "token-classification",
            "It knows these classes and no others: X, Y.",
        ),
        (
            {"kind": "question-answering"},
            head(BertForQuestionAnswering),
            "f1",
            "question-answering",
            "AutoModelForQuestionAnswering",
        ),
    ],
    ids=lambda value: value.get("kind", "") if isinstance(value, dict) else "",
)
def test_each_kind_of_task_has_its_tag_and_its_code(task, student, score, tag, said, tmp_path):
    run = make_run(tmp_path / "demo", on_task(**task), student)
    write_results(run, {score: 0.5}, {score: 1.0}, score=score, dev=None)
    card = written(run)
    assert card.data.pipeline_tag == tag
    [result] = card.data.eval_results
    assert (result.metric_value, result.dataset_name) == (0.5, "dev.csv")
    assert result.task_type == tag
    assert said in card.text
    assert "secret" not in card.content
    assert run_code(card, run.student)


def test_glue_is_glue_wherever_its_files_lie(tmp_path):
    task = {"kind": "glue", "name": "SST-2", "folder": f"{SECRET}/SST-2"}
    experiment = on_task() | {"task": task}
    run = make_run(tmp_path / "demo", experiment, head(BertForSequenceClassification))
    write_results(run, {"accuracy": 0.9}, {"accuracy": 0.95}, score="accuracy", dev=None)
    card = written(run)
    assert card.data.datasets == ["nyu-mll/glue"]
    [result] = card.data.eval_results
    assert (result.dataset_config, result.dataset_split) == ("sst2", "validation")
    assert 'classify("A text.")' in card.text


def test_what_the_author_says_comes_before_what_the_teacher_says(tmp_path):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    block = "language: de\nlicense: mit\nbase_model: someone/first"
    (teacher / CARD).write_text(f"---\n{block}\n---\n# Theirs\n")
    run = make_run(tmp_path / "one", masked_lm(str(teacher)))
    card = written(run)
    assert (card.data.language, card.data.license) == (["de"], "mit")
    assert card.data.base_model == ["someone/first"]
    said = {"language": ["en", "fr"], "license": "apache-2.0", "datasets": "someone/text"}
    card = written(make_run(tmp_path / "two", masked_lm(str(teacher)) | {"card": said}))
    assert (card.data.language, card.data.license) == (["en", "fr"], "apache-2.0")
    assert card.data.datasets == ["wikimedia/wikipedia", "someone/text"]


def test_of_a_machine_that_nobody_wrote_down_nothing_is_said(tmp_path):
    """Runs of earlier versions know the packages alone."""
    run = make_run(tmp_path / "demo", masked_lm())
    run.environment.write_text(json.dumps({"distilcli": "0.1.0", "python": "3.11.7"}))
    card = written(run)
    assert "Machine" not in card.text
    assert "- Versions: distilcli 0.1.0, Python 3.11.7" in card.text


def test_the_card_of_before_is_not_forgotten(tmp_path):
    """What only the machine of the training knew is kept where the card is written elsewhere."""
    run = make_run(tmp_path / "demo", masked_lm(f"{SECRET}/teacher") | {"card": {"license": "mit"}})
    written(run)
    run.experiment.write_text(run.experiment.read_text().replace("license: mit", "license: null"))
    own = {"accuracy": 0.25}
    write_results(run, own, {}, text={"store": "s"})
    card = written(run)
    assert card.data.license == "mit"
    assert [one.metric_value for one in card.data.eval_results] == [0.25]


def test_a_card_that_somebody_edited_stays(tmp_path):
    run = make_run(tmp_path / "demo", masked_lm())
    written(run)
    path = run.student / CARD
    assert write_card(run.student, card_of(facts_of_run(run))) is Written.UNCHANGED
    edited = path.read_text() + "My own words.\n"
    path.write_text(edited)
    assert write_card(run.student, card_of(facts_of_run(run))) is Written.KEPT
    assert path.read_text() == edited


def test_a_name_on_the_hub_is_written_into_the_code(tmp_path):
    run = make_run(tmp_path / "demo", masked_lm())
    written(run)
    name_in_card(run.student / CARD, "someone/demo")
    assert 'model="someone/demo"' in loaded(run.student).text
    assert write_card(run.student, card_of(facts_of_run(run))) is Written.WRITTEN
    path = run.student / CARD
    path.write_text(path.read_text() + "mine\n")
    name_in_card(path, "someone/demo")
    assert "someone/demo" not in path.read_text()


def test_scores_of_training_are_said_until_there_are_better_ones(tmp_path):
    run = make_run(tmp_path / "demo", masked_lm())
    held_out = {"held_out/accuracy": 0.125, "held_out/loss": 5.0}
    write_card(run.student, card_of(facts_of_run(run, held_out=held_out)))
    assert "| accuracy | 12.5 % |" in loaded(run.student).text
    assert "while it was trained" in loaded(run.student).text
    write_card(run.student, card_of(facts_of_folder(run.student)))
    assert "| accuracy | 0.125 |" in loaded(run.student).text
    write_results(run, {"accuracy": 0.25}, {}, text={"store": "s"})
    assert "12.5" not in written(run).text


def test_results_of_other_models_or_of_another_kind_are_not_its_own(tmp_path):
    run = make_run(tmp_path / "demo", masked_lm())
    write_results(run, {"accuracy": 0.25}, {}, text={"store": "s"})
    results = json.loads(run.results.read_text())
    results["models"]["own"]["path"] = "other/student"
    run.results.write_text(json.dumps(results))
    assert "It has not been measured" in written(run).text
    run.results.write_text(json.dumps({"suite": "glue", "tasks": {}}))
    assert write_card(run.student, card_of(facts_of_run(run))) is Written.UNCHANGED


def test_a_sentence_encoder_is_said_as_sentence_transformers_says_it(tmp_path):
    rows = {"train": {"files": "texts.txt"}, "dev": {"files": f"{SECRET}/pairs.tsv"}}
    task = {"kind": "embedding", "group_size": 8, **rows}
    experiment = {"teacher": {"model": "someone/encoder"}, "task": task}
    run = make_run(tmp_path / "demo", experiment)
    write_sentence_files(run.student, length={"max_seq_length": 20})
    own = {"spearman": 0.75, "spearman_8": 0.5}
    write_results(run, own, {"spearman": 0.8}, score="spearman", dev=None)
    card = written(run)
    assert card.data.library_name == "sentence-transformers"
    assert card.data.pipeline_tag == "sentence-similarity"
    assert [(one.metric_type, one.metric_value) for one in card.data.eval_results] == [
        ("spearman_cosine", 0.75),
        ("spearman_cosine_8", 0.5),
    ]
    assert "longer than 20 tokens" in card.text
    assert "SentenceTransformer(" in card.text


def test_stages_are_all_told_and_their_students_are_no_bases(tmp_path):
    data = masked_lm()["data"]
    rows = on_task(kind="classification")["task"]
    experiment = {
        "output_dir": str(tmp_path),
        "teacher": {"model": "someone/a-bert"},
        "stages": [
            {"name": "general", "data": data},
            {"name": "task", "task": rows, "teacher": {"model": "someone/tuned"}},
        ],
    }
    run = make_run(tmp_path / "demo", experiment, head(BertForSequenceClassification))
    card = written(run)
    assert card.data.base_model == ["someone/a-bert", "someone/tuned"]
    assert card.data.datasets == ["wikimedia/wikipedia"]
    assert card.data.pipeline_tag == "text-classification"
    assert "Stage general: Losses" in card.text
    assert card.data.get("model-index") is None


def test_any_folder_of_a_model_has_a_card(tmp_path):
    model = bert()
    model.save_pretrained(tmp_path / "some")
    word_tokenizer().save_pretrained(tmp_path / "some")
    write_card(tmp_path / "some", card_of(facts_of_folder(tmp_path / "some")))
    card = loaded(tmp_path / "some")
    assert "A BERT of 4 layers and width 32" in card.text
    assert f"{sum(one.numel() for one in model.parameters()):,} parameters" in card.text
    assert "knows nothing of its training" in card.text


def test_the_card_of_an_export_names_its_files_and_the_student(tmp_path):
    run = make_run(tmp_path / "demo", masked_lm())
    facts = facts_of_folder(run.student)
    assert facts.name == "demo"
    table = Table("measured on text", ["file", "MiB"], [["onnx/model.onnx", "1.0"]])
    files = Files(onnx="onnx/model.onnx", int8="onnx/model_quantized.onnx")
    (tmp_path / "export").mkdir()
    card = card_of_export(facts, table, ["It rounds."], files, Texts(), "someone/student")
    write_card(tmp_path / "export", card)
    card = loaded(tmp_path / "export")
    assert card.data.base_model == ["someone/student"]
    assert card.data.base_model_relation == "quantized"
    assert {"onnx", "transformers.js"} <= set(card.data.tags)
    assert card.data.library_name == "transformers.js"
    assert "Measured on text:" in card.text
    assert "It rounds." in card.text
    assert 'pipeline("fill-mask", "path/to/this/folder", { dtype: "q8" })' in card.text
    assert 'InferenceSession("onnx/model_quantized.onnx")' in card.text
    assert "| onnx/model.onnx | 1.0 |" in card.text
    files = Files(onnx="onnx/model.onnx", half="bf16")
    write_card(tmp_path / "export", card_of_export(facts, table, [], files, Texts()))
    card = loaded(tmp_path / "export")
    assert card.data.base_model == ["someone/a-bert"]
    assert card.data.get("base_model_relation") is None
    assert card.data.library_name == "transformers"
    assert "`model.safetensors` is in bf16" in card.text


USES = [
    (Use("fill-mask", mask="<mask>"), ["logits"], 'encode("The capital of France is <mask>.")'),
    (Use("text-classification", ("a", "b")), ["logits"], "labels[str("),
    (Use("text-classification", ("a", "b"), reads_pairs=True), ["logits"], '"The second."'),
    (Use("text-classification", ("a", "b"), several=True), ["logits"], "logits[0] > 0"),
    (Use("text-classification", ("a",)), ["logits"], "logits[0, 0]"),
    (Use("text-ranking", ("a",), reads_pairs=True), ["logits"], '"The query.", "A document."'),
    (Use("token-classification", ("a", "b")), ["logits"], "text.tokens"),
    (Use("question-answering"), ["start_logits", "end_logits"], "starts[0]"),
    (Use("sentence-similarity"), ["sentence_embedding"], 'encode("query: \\"a text.")'),
    (Use("feature-extraction"), ["last_hidden_state"], "states.shape"),
]


@pytest.mark.parametrize(("use", "outputs", "said"), USES)
def test_code_of_an_export_names_what_the_graph_gives(use, outputs, said):
    """In Python; in JavaScript with a pipeline where there is one that says the same."""
    texts = Texts('query: "', lowers=True)
    code = python_code(use, "onnx/model.onnx", texts)
    compile(code, "card", "exec")
    assert f"session.run({outputs}, shown)".replace("'", '"') in code
    assert said in code
    of_numbers = use.gives_number or use.tag in ("sentence-similarity", "feature-extraction")
    has_pipeline = not of_numbers and not use.reads_pairs
    code = javascript_code(use, "someone/it", "fp32", texts, has_pipeline=True)
    assert ("pipeline(" in code) == has_pipeline
    for one in outputs:
        assert (f"console.log({one}.tolist());" in code) != has_pipeline
    assert "pipeline(" not in javascript_code(use, "it", "fp32", texts, has_pipeline=False)


def test_f1_says_which_class_it_is_of():
    assert in_words("f1", "text-classification", "yes") == "F1 of class yes"
    assert in_words("accuracy_f1", "text-classification") == (
        "mean of accuracy and F1 of the positive class"
    )
    assert in_words("f1", "question-answering", "yes") == "F1"
