"""Every kind of bad row is named with its place and the reason, or left out and counted."""

from pathlib import Path

import pytest
from row_files import GOOD, LABELS, jsonl, parquet, question, section, squad_file, write
from task_reading import recorded, refusal

from distilcli.errors import DataError

TAGS = {"labels": ["A", "N", "V"]}

# Every kind of bad row: the kind of task, its settings, the name of a file and its content, the
# places and reasons that must be told, the texts of the rows that are right.
BAD = {
    "tsv": (
        *("classification", LABELS, "rows.tsv"),
        "text\tlabel\nba\tyes\nbe\t\n\nbi\t \n\tno\n  \tno\nbo\nbu\tyes\tno\nda\t no \nde\tmaybe\n",
        [
            ("line 3", "no label"),
            ("line 5", "no label"),
            ("line 6", "no text in text"),
            ("line 7", "no text in text"),
            ("line 8", "1 fields, but the header has 2"),
            ("line 9", "3 fields, but the header has 2"),
            ("line 11", "unknown class 'maybe'; there are no, yes"),
        ],
        [("ba",), ("da",)],
    ),
    "csv of pairs": (
        "classification",
        {"text": "first", "text_pair": "second", "label": "class"} | LABELS,
        "rows.csv",
        'class,first,second\nyes,ba,"two\nlines"\nno,be,\nno,,bi\n,bo,gu\nno,ba\nYess,ba,be\n',
        [
            ("line 4", "no text in second"),
            ("line 5", "no text in first"),
            ("line 6", "no label"),
            ("line 7", "2 fields, but the header has 3"),
            ("line 8", "unknown class 'Yess'; there are no, yes"),
        ],
        [("ba", "two\nlines")],
    ),
    "csv without a header": (
        "classification",
        {"columns": ["label", "id", "text"]} | LABELS,
        "rows.csv",
        "yes,1,ba\nno,be\nno,3,bi\n",
        [("line 2", "2 fields, but the columns named are 3")],
        [("ba",), ("bi",)],
    ),
    "jsonl": (
        *("classification", LABELS, "rows.jsonl"),
        "\n".join(
            [
                '{"text": "ba", "label": "yes", "more": [1]}',
                '{"text": "be", "label": "no"',
                '["bi", "no"]',
                '"bi"',
                "",
                '{"label": "no", "body": "bo"}',
                '{"text": null, "label": "no"}',
                '{"text": 7, "label": "no"}',
                '{"text": "gu"}',
                '{"text": "gu", "label": null}',
                '{"text": "da", "label": "none"}',
            ]
        ),
        [
            ("line 2", "not valid JSON (Expecting ',' delimiter)"),
            ("line 3", "not a JSON object"),
            ("line 4", "not a JSON object"),
            ("line 6", "no column 'text'; there are: label, body"),
            ("line 7", "no text in text"),
            ("line 8", "no text in text"),
            ("line 9", "no column 'label'; there are: text"),
            ("line 10", "no label"),
            ("line 11", "unknown class 'none'; there are no, yes"),
        ],
        [("ba",)],
    ),
    "parquet": (
        *("classification", LABELS, "rows.parquet"),
        parquet(
            [
                {"text": "ba", "label": "no"},
                {"text": None, "label": "no"},
                {"text": "be", "label": None},
                {"text": "bi", "label": "perhaps"},
            ]
        ),
        [
            ("row 2", "no text in text"),
            ("row 3", "no label"),
            ("row 4", "unknown class 'perhaps'; there are no, yes"),
        ],
        [("ba",)],
    ),
    "multi-label": (
        *("multi-label", LABELS, "rows.jsonl"),
        jsonl(
            [
                {"text": "ba", "labels": ["yes", "no"]},
                {"text": "be", "labels": None},
                {"text": "bi"},
                {"text": "", "labels": []},
                {"text": "bo", "labels": []},
                {"text": "gu", "labels": ["yes", "so"]},
            ]
        ),
        [
            ("line 2", "no label"),
            ("line 3", "no column 'labels'; there are: text"),
            ("line 4", "no text in text"),
            ("line 6", "unknown class 'so'; there are no, yes"),
        ],
        [("ba",), ("bo",)],
    ),
    "regression": (
        *("regression", {}, "rows.csv"),
        'text,label\nba,-1.5e1\nbe,much\nbi,inf\nbo,NaN\nbu,\nda,"1,5"\nde, 2 \n',
        [
            ("line 3", "label 'much' is no number"),
            ("line 4", "label 'inf' is not finite"),
            ("line 5", "label 'NaN' is not finite"),
            ("line 6", "no label"),
            ("line 7", "label '1,5' is no number"),
        ],
        [("ba",), ("de",)],
    ),
    "squad": (
        *("question-answering", {}, "rows.json"),
        squad_file(
            question(),
            question(answers=[]),
            question("be", start=4),
            question("bE"),
            question("", start=0),
            question("bi", start=99),
            {"id": "q", "question": "what"},
            question(question=" "),
            question(answers=[{"text": "be"}]),
            question(answers=None),
        ),
        [
            ("question 2", "no answer"),
            ("question 3", "the answer 'be' is not in the context at character 4"),
            ("question 4", "the answer 'bE' is not in the context at character 3"),
            ("question 5", "the answer '' is not in the context at character 0"),
            ("question 6", "the answer 'bi' is not in the context at character 99"),
            ("question 7", "no column 'answers'; there are: id, question, context"),
            ("question 8", "no text in question"),
            ("question 9", "answers are not of SQuAD's form ('answer_start')"),
            (
                "question 10",
                "answers are not of SQuAD's form ('NoneType' object is not iterable)",
            ),
        ],
        [("what", "ba be bi")],
    ),
    "squad 2": (
        *("question-answering", {}, "rows.json"),
        squad_file(
            question(is_impossible=True, answers=[]),
            question(is_impossible=True),
            question(is_impossible=False),
            "what",
        ),
        [
            (
                f"question {number}",
                "a question without an answer (is_impossible): only SQuAD 1.1",
            )
            for number in (1, 2)
        ]
        + [("question 4", "a question that is no object")],
        [("what", "ba be bi")],
    ),
    "no context": (
        *("question-answering", {}, "rows.jsonl"),
        jsonl(
            [
                question(context="ba be"),
                question(context=""),
                question(),
                question(context="ba be", answers={"text": ["be"], "answer_start": [3, 4]}),
            ]
        ),
        [
            ("line 2", "no text in context"),
            ("line 3", "no column 'context'; there are: id, question, answers"),
            (
                "line 4",
                "answers are not of SQuAD's form (zip() argument 2 is longer than argument 1)",
            ),
        ],
        [("what", "ba be")],
    ),
    "conll": (
        *("tagging", TAGS, "rows.txt"),
        # An empty tag, an empty word, a column too few and too many, an unknown tag.
        "ba\tN\nbe\tV\n\nbi\tN\nbo\t\n\nda\tN\n\tN\n\nde\tN\ndi\ndo\tN\n\n\n"
        "ga\tN\nge\tN\tV\tA\ngi\n\nfa\tN\n\nfe\tV\nfi\tX\n",
        [
            ("line 4", "no tag for word 2, 'bo'"),
            ("line 7", "word 2 is empty"),
            ("line 11", "1 columns where there should be 2"),
            ("line 16", "4 columns where there should be 2"),
            ("line 21", "unknown class 'X'; there are A, N, V"),
        ],
        [(["ba", "be"],), (["fa"],)],
    ),
    "conll with blanks": (
        *("tagging", TAGS, "rows.txt"),
        "ba x N\n\nbe\nbi x V\n\nbo x V\nbu V\n\nda y A\n",
        [
            ("line 3", "1 columns where there should be 2"),
            ("line 7", "2 columns where there should be 3"),
        ],
        [(["ba"],), (["da"],)],
    ),
    "conll with named columns": (
        *("tagging", {"columns": ["id", "tokens", "tags"]} | TAGS, "rows.txt"),
        "1\tba\tN\n\n1\tbe\tN\t_\n2\tbi\tN\n\n1\tbo\n\n1\tgu\tA\n2\tgu\tA\n",
        [
            ("line 3", "4 columns where there should be 3"),
            ("line 6", "2 columns where there should be 3"),
        ],
        [(["ba"],), (["gu", "gu"],)],
    ),
    "words and tags": (
        *("tagging", TAGS, "rows.jsonl"),
        jsonl(
            [
                {"tokens": ["ba", "be"], "tags": ["N", "V"]},
                {"tokens": ["ba", "be"], "tags": ["N"]},
                {"tokens": ["ba"], "tags": ["N", "V"]},
                {"tokens": [], "tags": []},
                {"tokens": ["ba", " "], "tags": ["N", "V"]},
                {"tokens": ["ba", "be"], "tags": ["N", ""]},
                {"tokens": 3, "tags": ["N"]},
                {"tokens": ["ba"], "tags": None},
                {"tokens": ["ba"], "tags": [" "]},
                {"tokens": ["ba"], "tags": ["m"]},
            ]
        ),
        [
            ("line 2", "2 words, but 1 tags"),
            ("line 3", "1 words, but 2 tags"),
            ("line 4", "no words"),
            ("line 5", "word 2 is empty"),
            ("line 6", "no tag for word 2, 'be'"),
            ("line 7", "3 is no list"),
            ("line 8", "None is no list"),
            ("line 9", "no tag for word 1, 'ba'"),
            ("line 10", "unknown class 'm'; there are A, N, V"),
        ],
        [(["ba", "be"],)],
    ),
    "nothing in a list": (
        *("tagging", {"labels": ["N", "None"]}, "rows.jsonl"),
        jsonl(
            [
                {"tokens": ["ba", "be"], "tags": ["N", None]},
                {"tokens": ["None"], "tags": ["None"]},
                {"tokens": ["ba", None], "tags": ["N", "N"]},
            ]
        ),
        [("line 1", "no tag for word 2, 'be'"), ("line 3", "word 2 is empty")],
        [(["None"],)],
    ),
}


def bad_and_good(folder: Path, name: str, split: str):
    """A task with bad rows in one split and none in the other; the file, what is bad, the texts."""
    kind, settings, file_name, content, reasons, texts = BAD[name]
    settings = dict(settings)  # of which some are of the file
    columns = {"columns": settings.pop("columns")} if "columns" in settings else {}
    path = write(folder / file_name, content)
    row = dict(GOOD[kind])
    for key, standard in (("text", "text"), ("label", "label"), ("text_pair", None)):
        if key in settings:
            row[settings[key]] = row.get(standard, "ke")
    good = write(folder / "good.jsonl", jsonl([row]))
    sources = {"train": {"files": [str(good)]}, "dev": {"files": [str(good)]}}
    sources[split] = {"files": [str(path)]} | columns
    return section(kind, sources["train"], sources["dev"], **settings), path, reasons, texts


@pytest.mark.parametrize("split", ["train", "dev"])
@pytest.mark.parametrize("name", BAD)
def test_every_bad_row_is_named_with_its_place_and_the_reason(tmp_path, name, split):
    task, path, reasons, _ = bad_and_good(tmp_path, name, split)
    error = refusal(task, DataError)
    many = "s" if len(reasons) > 1 else ""
    assert error.message.splitlines() == [
        f"{path}: {len(reasons)} bad row{many}",
        *(f"  {path} {place}: {reason}" for place, reason in reasons),
    ]
    assert "task.skip_bad_rows=true" in error.hint


@pytest.mark.parametrize("split", ["train", "dev"])
@pytest.mark.parametrize("name", BAD)
def test_bad_rows_that_are_skipped_are_counted_and_the_others_stay(tmp_path, name, split):
    task, _, reasons, texts = bad_and_good(tmp_path, name, split)
    found, train, dev = recorded(task | {"skip_bad_rows": True})
    assert (train if split == "train" else dev) == texts
    assert getattr(found.skipped, split) == len(reasons)
    assert found.skipped.train + found.skipped.dev == len(reasons)
