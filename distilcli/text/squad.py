"""SQuAD files: articles, paragraphs, questions and answers (Rajpurkar et al. 2016)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distilcli.errors import DataError
from distilcli.files.json_text import parse_json
from distilcli.text.row import BadRow, Row


def squad_rows(path: Path, text: str, with_answers: bool = True) -> Iterator[Row | BadRow]:
    """A row for each question of a file in the official format, numbered from 1.

    Args:
        path: of the file, for messages.
        text: what it holds.
        with_answers: whether answers are read; else questions that have none are rows, too.

    Raises:
        DataError: the file is not JSON, or not of this format.
    """
    hint = "The format is SQuAD's: data, paragraphs, qas."
    try:
        tree = parse_json(text) if text.strip() else {"data": []}
        if isinstance(tree, list):  # an array of rows, as a data set of the hub is exported
            yield from (_row(number, row, with_answers) for number, row in enumerate(tree, start=1))
            return
        articles = tree["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        questions = [(part["context"], qa) for part in paragraphs for qa in part["qas"]]
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})", hint) from error
    except KeyError as error:
        raise DataError(f"{path}: no {error} where there should be one", hint) from error
    except TypeError as error:
        raise DataError(f"{path}: not of SQuAD's form ({error})", hint) from error
    for number, (context, qa) in enumerate(questions, start=1):
        row = qa | {"context": context} if isinstance(qa, dict) else qa
        yield _row(number, row, with_answers)


def _row(number: int, qa: Any, with_answers: bool) -> Row | BadRow:
    if not isinstance(qa, dict):
        return BadRow(number, "a question that is no object", unit="question")
    if with_answers and qa.get("is_impossible"):
        reason = "a question without an answer (is_impossible): only SQuAD 1.1"
        return BadRow(number, reason, unit="question")
    return Row(number, qa, "question")
