"""Words of tagging: number signs, comments of CoNLL-U and cells that look like something else."""

import pytest
from row_files import comma, section, write
from task_reading import recorded, refusal

from distilcli.errors import ConfigError, DataError


@pytest.mark.parametrize("cell", ["1993", "true", "null", '"ba"', "-1.5"])
def test_one_word_in_a_cell_is_a_word_whatever_it_looks_like(tmp_path, cell):
    rows = [{"tokens": cell, "tags": "N"}, {"tokens": "ba be", "tags": "N V"}]
    path = write(tmp_path / "rows.csv", comma(rows))
    _, train, _ = recorded(section("tagging", path, path))
    assert train == [([cell],), (["ba", "be"],)]


def test_a_number_sign_is_a_word_and_a_comment_is_none(tmp_path):
    path = write(
        tmp_path / "rows.txt", "# newdoc id = a\n# text = ba # 1\nba N\n# S\n#1 N\n\n# S\n"
    )
    found, train, _ = recorded(section("tagging", path, path))
    assert train == [(["ba", "#", "#1"],), (["#"],)]
    assert found.labels == ["N", "S"]


def test_comments_of_conllu_are_no_words(tmp_path):
    """All that begin with the sign and have no tabs, where words have tabs."""
    lines = ["# newdoc", "# newpar", "# text = # ba", "1\t#\tS", "2\tba\tN", "", "#", "1\tbe\tN"]
    path = write(tmp_path / "rows.conllu", "\n".join(lines) + "\n\n")
    source = {"files": [str(path)], "columns": ["id", "tokens", "tags"]}
    _, train, _ = recorded(section("tagging", source, source))
    assert train == [(["#", "ba"],), (["be"],)]


def test_conllu_says_its_columns_and_words_that_are_written_as_one_are_left_out(tmp_path):
    lines = ["# text = babe bi", "1-2\tbabe\t_", "1\tba\tN", "2\tbe\tV", "2.1\tbo\tX", "3\tbi\tN"]
    path = write(tmp_path / "rows.conllu", "\n".join(lines) + "\n\n")
    error = refusal(section("tagging", path, path), ConfigError)
    assert error.message == f"task.train.columns: must be said for {path}"
    source = {"files": [str(path)], "columns": ["id", "form", "upos"]}
    _, train, _ = recorded(section("tagging", source, source, words="form", tags="upos"))
    assert train == [(["ba", "be", "bi"],)]


def test_a_number_sign_that_lost_its_tag_is_a_bad_row(tmp_path):
    path = write(tmp_path / "rows.tsv", "ba\tN\n#\nbe\tV\n\nbi\tN\nbo\tV\n")
    assert refusal(section("tagging", path, path), DataError).message.splitlines() == [
        f"{path}: 1 bad row",
        f"  {path} line 2: 1 columns where there should be 2",
    ]
