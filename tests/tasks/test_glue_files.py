"""The files of the GLUE tasks with their quirks: texts and labels come out as they were written."""

import json
from pathlib import Path

import pytest
from task_reading import SHARED, needs_shared, recorded, refusal

from distilcli.config.tasks import ClassificationTask, GlueTask, RegressionTask
from distilcli.tasks import glue
from distilcli.tasks.glue import expand


def tab(*rows: tuple[str, ...]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


# Nine tasks in the layout of their own files: train, dev, what the texts are and what the labels.
# Quotes are never closed, run over fields and rows, and mean nothing.

COLA_TRAIN = tab(
    ("gj04", "1", "", 'The "dog slept.'),
    ("gj04", "0", "*", "Slept the dog has that, I think "),
    ("r-67", "1", "", '"It\'s late," she said.'),
)
COLA_DEV = tab(("c_05", "0", "??", 'Whom" left?'))

MRPC_HEADER = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
MRPC_TRAIN = "\ufeff" + tab(
    MRPC_HEADER,
    ("1", "101", "102", '"We will wait, he said.', "He said they would wait."),
    ("0", "103", "104", 'Shares fell "sharply.', 'Shares rose 2" in a day.'),
    ("1", "105", "106", "Rain, then snow .", ' Snow after rain" '),
)
MRPC_DEV = "\ufeff" + tab(MRPC_HEADER, ("0", "7", "8", "One \u2013 two.", 'Two "" one.'))

STSB_HEADER = (
    *("index", "genre", "filename", "year", "old_index"),
    *("source1", "source2", "sentence1", "sentence2", "score"),
)
STSB_TRAIN = tab(
    STSB_HEADER,
    ("0", "news", "MSRpar", "2012", "11", "none", "none", 'A "man sings.', "A man sings.", "4.750"),
    ("1", "forum", "a", "2013", "12", "none", "none", "No.", '"Maybe', "0.000"),
)
STSB_DEV = tab(
    STSB_HEADER, ("2", "news", "b", "2014", "3", "x", "y", "A cat, a dog.", "A dog.", "3.2")
)

SST2_TRAIN = tab(
    ("sentence", "label"),
    ("a quiet , `` lovely '' film ", "1"),
    ('tedious " from start to end ', "0"),
)
SST2_DEV = tab(("sentence", "label"), ("it 's fine . ", "1"))

PAIR = ("index", "sentence1", "sentence2", "label")
RTE_TRAIN = tab(
    PAIR,
    ("0", 'The mayor "resigned.', "The mayor left office.", "entailment"),
    ("1", "It rained.", 'It "snowed.', "not_entailment"),
)
RTE_DEV = tab(PAIR, ("0", "A.", "B.", "not_entailment"))

QNLI = ("index", "question", "sentence", "label")
QNLI_TRAIN = tab(
    QNLI,
    ("0", 'Who "built it?', "It was built by monks.", "entailment"),
    ("1", "When?", 'Nobody "knows.', "not_entailment"),
)
QNLI_DEV = tab(QNLI, ("0", "Where?", "In Rome.", "entailment"))

QQP = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
QQP_TRAIN = tab(
    QQP,
    ("5", "10", "11", 'How do I "cook rice?', "How is rice cooked?", "1"),
    ("6", "12", "13", 'Why?"', "Why not?", "0"),
)
QQP_DEV = tab(QQP, ("7", "14", "15", "What is it?", '"What was it?', "0"))

MNLI_PARSES = (
    *("index", "promptID", "pairID", "genre"),
    *("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"),
    *("sentence1", "sentence2"),
)
MNLI_HEADER = (*MNLI_PARSES, "label1", "gold_label")
# The dev file has the votes of five annotators, of which the first may be others than the majority.
MNLI_DEV_HEADER = (*MNLI_PARSES, "label1", "label2", "label3", "label4", "label5", "gold_label")
CONTRADICTS = "contradiction"
PARSES = ("0", "7", "7e", "fiction", "( a )", "( b )", "(ROOT a)", "(ROOT b)")
MNLI_TRAIN = tab(
    MNLI_HEADER,
    (*PARSES, 'He "ran.', "He moved.", "entailment", "entailment"),
    (*PARSES, "He ran.", "He won.", "neutral", "neutral"),
    (*PARSES, "He ran.", 'He "stood.', "contradiction", "contradiction"),
)
MNLI_DEV = tab(
    MNLI_DEV_HEADER,
    (*PARSES, "We met.", "We parted.", "neutral", *["contradiction"] * 3, "neutral", CONTRADICTS),
)

WNLI_TRAIN = tab(
    PAIR,
    ("0", 'The cup fell since it was "loose.', "The cup was loose.", "1"),
    ("1", "Ann thanked Eve since she helped.", "Ann helped.", "0"),
)
WNLI_DEV = tab(PAIR, ("0", "C.", "D.", "1"))

FILES = {
    "CoLA": (COLA_TRAIN, COLA_DEV),
    "MNLI": (MNLI_TRAIN, MNLI_DEV),
    "MRPC": (MRPC_TRAIN, MRPC_DEV),
    "QNLI": (QNLI_TRAIN, QNLI_DEV),
    "QQP": (QQP_TRAIN, QQP_DEV),
    "RTE": (RTE_TRAIN, RTE_DEV),
    "SST-2": (SST2_TRAIN, SST2_DEV),
    "STS-B": (STSB_TRAIN, STSB_DEV),
    "WNLI": (WNLI_TRAIN, WNLI_DEV),
}
TEXTS = {
    "CoLA": (
        [
            ('The "dog slept.',),
            ("Slept the dog has that, I think ",),
            ('"It\'s late," she said.',),
        ],
        [('Whom" left?',)],
    ),
    "MNLI": (
        [('He "ran.', "He moved."), ("He ran.", "He won."), ("He ran.", 'He "stood.')],
        [("We met.", "We parted.")],
    ),
    "MRPC": (
        [
            ('"We will wait, he said.', "He said they would wait."),
            ('Shares fell "sharply.', 'Shares rose 2" in a day.'),
            ("Rain, then snow .", ' Snow after rain" '),
        ],
        [("One \u2013 two.", 'Two "" one.')],
    ),
    "QNLI": (
        [('Who "built it?', "It was built by monks."), ("When?", 'Nobody "knows.')],
        [("Where?", "In Rome.")],
    ),
    "QQP": (
        [('How do I "cook rice?', "How is rice cooked?"), ('Why?"', "Why not?")],
        [("What is it?", '"What was it?')],
    ),
    "RTE": (
        [('The mayor "resigned.', "The mayor left office."), ("It rained.", 'It "snowed.')],
        [("A.", "B.")],
    ),
    "SST-2": (
        [("a quiet , `` lovely '' film ",), ('tedious " from start to end ',)],
        [("it 's fine . ",)],
    ),
    "STS-B": (
        [('A "man sings.', "A man sings."), ("No.", '"Maybe')],
        [("A cat, a dog.", "A dog.")],
    ),
    "WNLI": (
        [
            ('The cup fell since it was "loose.', "The cup was loose."),
            ("Ann thanked Eve since she helped.", "Ann helped."),
        ],
        [("C.", "D.")],
    ),
}
TARGETS = {
    "CoLA": ([1, 0, 1], [0]),
    "MNLI": ([0, 1, 2], [2]),
    "MRPC": ([1, 0, 1], [0]),
    "QNLI": ([0, 1], [0]),
    "QQP": ([1, 0], [0]),
    "RTE": ([0, 1], [1]),
    "SST-2": ([1, 0], [1]),
    "STS-B": ([4.75, 0.0], [3.2]),
    "WNLI": ([1, 0], [1]),
}
BINARY = ["0", "1"]
ENTAILMENT = ["entailment", "not_entailment"]
OUTPUTS = {
    "CoLA": BINARY,
    "MNLI": ["entailment", "neutral", "contradiction"],
    "MRPC": BINARY,
    "QNLI": ENTAILMENT,
    "QQP": BINARY,
    "RTE": ENTAILMENT,
    "SST-2": BINARY,
    "STS-B": ["LABEL_0"],
    "WNLI": BINARY,
}
SCORES = {
    "CoLA": "matthews",
    "MRPC": "accuracy_f1",
    "QQP": "accuracy_f1",
    "STS-B": "pearson_spearman",
}


def unpacked(folder: Path, name: str, line_end: str = "\n") -> dict[str, object]:
    """The folder of a task, and the section of an experiment that reads it."""
    for stem, text in zip(("train", dev_stem(name)), FILES[name], strict=True):
        text = text.replace("\n", line_end)
        (folder / f"{stem}.tsv").write_bytes(text.encode("utf-8"))
    return {"kind": "glue", "name": name, "folder": str(folder)}


def dev_stem(name: str) -> str:
    return "dev_matched" if name == "MNLI" else "dev"


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("name", FILES)
def test_texts_and_labels_come_out_as_they_were_written(tmp_path, name, line_end):
    task, train, dev = recorded(unpacked(tmp_path, name, line_end))
    assert (train, dev) == TEXTS[name]
    assert task.labels == OUTPUTS[name]
    expected = [pytest.approx(values) for values in TARGETS[name]]
    assert [task.train.targets.tolist(), task.dev.targets.tolist()] == expected
    assert task.score == SCORES.get(name, "accuracy")
    assert (task.skipped.train, task.skipped.dev) == (0, 0)


# As the data card of nyu-mll/glue has them: subset, columns of texts, names of the classes.
ON_THE_HUB = {
    "CoLA": ("cola", ["sentence"], ["unacceptable", "acceptable"]),
    "MNLI": ("mnli", ["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
    "MRPC": ("mrpc", ["sentence1", "sentence2"], ["not_equivalent", "equivalent"]),
    "QNLI": ("qnli", ["question", "sentence"], ["entailment", "not_entailment"]),
    "QQP": ("qqp", ["question1", "question2"], ["not_duplicate", "duplicate"]),
    "RTE": ("rte", ["sentence1", "sentence2"], ["entailment", "not_entailment"]),
    "SST-2": ("sst2", ["sentence"], ["negative", "positive"]),
    "STS-B": ("stsb", ["sentence1", "sentence2"], None),
    "WNLI": ("wnli", ["sentence1", "sentence2"], ["not_entailment", "entailment"]),
}


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_the_hub_has_the_same_tasks_under_other_names(name):
    subset, texts, labels = ON_THE_HUB[name]
    task = expand(GlueTask(kind="glue", name=name, max_length=77, skip_bad_rows=True))
    splits = ["train", "validation_matched" if name == "MNLI" else "validation"]
    assert [task.train.split, task.dev.split] == splits
    assert {(source.hub, source.subset) for source in (task.train, task.dev)} == {
        ("nyu-mll/glue", subset)
    }
    assert [task.text, *([task.text_pair] if task.text_pair else [])] == texts
    assert task.label == "label"
    assert task.score == SCORES.get(name, "accuracy")
    assert (task.max_length, task.skip_bad_rows) == (77, True)
    if labels is None:
        assert isinstance(task, RegressionTask)
    else:
        assert isinstance(task, ClassificationTask)
        assert task.labels == labels


def test_ids_are_the_same_from_files_and_from_the_hub(tmp_path, monkeypatch):
    """A teacher that learnt on the one is one for the other."""
    import datasets

    hub = tmp_path / "hub"
    (hub / "mnli").mkdir(parents=True)
    names = ["entailment", "neutral", "contradiction"]
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
            "idx": datasets.Value("int32"),
        }
    )
    for split, texts, targets in zip(
        ("train", "validation_matched"), TEXTS["MNLI"], TARGETS["MNLI"], strict=True
    ):
        columns = {
            "premise": [pair[0] for pair in texts],
            "hypothesis": [pair[1] for pair in texts],
            "label": targets,
            "idx": list(range(len(texts))),
        }
        part = datasets.Dataset.from_dict(columns, features=features)
        with (hub / "mnli" / f"{split}.parquet").open("wb") as file:
            part.to_parquet(file)
    files = [{"split": s, "path": f"mnli/{s}.parquet"} for s in ("train", "validation_matched")]
    card = {"configs": [{"config_name": "mnli", "data_files": files}]}
    (hub / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n", encoding="utf-8")
    monkeypatch.setattr(glue, "HUB", str(hub))

    task, train, dev = recorded({"kind": "glue", "name": "MNLI"})
    assert (train, dev) == TEXTS["MNLI"]
    assert task.labels == names
    assert (task.train.targets.tolist(), task.dev.targets.tolist()) == TARGETS["MNLI"]


def test_rows_that_break_off_are_named_and_can_be_left_out(tmp_path):
    """QQP's own training file has some."""
    section = unpacked(tmp_path, "QQP")
    path = tmp_path / "train.tsv"
    with path.open("a", encoding="utf-8") as file:
        file.write('8\t16\t17\tIs it "so?\n9\t18\t19\tA?\tB?\t2\n10\t20\t21\tA?\tB?\t1\n')
    error = refusal(section)
    assert error.message.splitlines() == [
        f"{path}: 2 bad rows",
        f"  {path} line 4: 4 fields, but the header has 6",
        f"  {path} line 5: unknown class '2'; there are 0, 1",
    ]
    task, train, _ = recorded(section | {"skip_bad_rows": True})
    assert train == [*TEXTS["QQP"][0], ("A?", "B?")]
    assert task.train.targets.tolist() == [1, 0, 1]
    assert (task.skipped.train, task.skipped.dev) == (2, 0)


def test_cola_has_no_header_to_count_by(tmp_path):
    section = unpacked(tmp_path, "CoLA")
    path = tmp_path / "dev.tsv"
    path.write_text("gj04\t1\t\tFine.\ngj04\t1\tNot fine.\n", encoding="utf-8")
    assert refusal(section).message.splitlines() == [
        f"{path}: 1 bad row",
        f"  {path} line 2: 3 fields, but the columns named are 4",
    ]


@pytest.mark.parametrize(
    ("name", "missing"),
    [("SST-2", "train"), ("SST-2", "dev"), ("CoLA", "dev"), ("MNLI", "dev_matched")],
)
def test_a_folder_without_the_files_is_refused(tmp_path, name, missing):
    section = unpacked(tmp_path, name)
    (tmp_path / f"{missing}.tsv").unlink()
    error = refusal(section)
    assert error.message == f"task.folder: {tmp_path} has no {missing}.tsv"
    assert "folder of one GLUE task" in error.hint


def test_files_of_another_task_are_refused_by_their_columns(tmp_path):
    section = unpacked(tmp_path, "SST-2") | {"name": "RTE"}
    assert refusal(section).message == (
        f"{tmp_path / 'train.tsv'} line 1: no column 'sentence1'; there are: sentence, label"
    )


# The real files


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        (["neutral", "contradiction", "entailment"], ["neutral", "contradiction", "entailment"]),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["entailment", "neutral", "contradiction"]),
    ],
    ids=["named", "without names"],
)
def test_a_teacher_that_names_the_classes_says_their_order(tmp_path, teacher, expected):
    unpacked(tmp_path, "MNLI")
    task = expand(GlueTask(kind="glue", name="MNLI", folder=str(tmp_path)), teacher)
    assert isinstance(task, ClassificationTask)
    assert task.labels == expected


def written(path: Path, columns: list[int], header: bool) -> list[list[str]]:
    """Fields of a file of tabs and ends of lines, nothing else meaning anything."""
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    rows = [line.split("\t") for line in text.split("\n") if line][header:]
    return [[row[column] for column in columns] for row in rows]


# Numbers of rows, columns of the texts and of the label, whether there is a header.
REAL = {
    "CoLA": (8551, 1043, [3], 1, False),
    "MRPC": (3668, 408, [3, 4], 0, True),
    "RTE": (2490, 277, [1, 2], 3, True),
    "SST-2": (67349, 872, [0], 1, True),
    "STS-B": (1500, 500, [7, 8], 9, True),
}


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_every_row_of_the_real_files_is_read(name):
    num_train, num_dev, columns, label, header = REAL[name]
    folder = SHARED / "glue" / name
    task, train, dev = recorded({"kind": "glue", "name": name, "folder": str(folder)})
    assert task.num_examples == (num_train, num_dev)
    assert (task.skipped.train, task.skipped.dev) == (0, 0)
    for stem, texts, inputs in (("train", train, task.train), ("dev", dev, task.dev)):
        rows = written(folder / f"{stem}.tsv", [*columns, label], header)
        assert texts == [tuple(row[:-1]) for row in rows]
        labels = [row[-1] for row in rows]
        if name == "STS-B":
            assert inputs.targets.tolist() == pytest.approx([float(text) for text in labels])
        else:
            assert [task.labels[target] for target in inputs.targets] == labels


@pytest.mark.parametrize("name", glue.TASKS)
def test_settings_know_which_task_asks_for_a_number(name):
    """Where losses on distributions mean nothing; it is known before any file is read."""
    config = GlueTask.model_validate({"kind": "glue", "name": name})
    assert config.asks_for_number == (glue.TASKS[name].labels is None)
