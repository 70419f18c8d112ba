"""Paths as others may see them: names in the place of the folders of this machine."""

from pathlib import Path

import pytest

from distilcli.files.paths import BUILTIN_FOLDER
from distilcli.files.shown_paths import short_name, shown_path, shown_text, shown_tree, shown_words


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("runs/one", "runs/one"),
        ("org/name", "org/name"),
        ("builtin:teacher", "builtin:teacher"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("/home/me/corpora/news.txt", "news.txt"),
        ("/home/me/corpora/*.txt", "*.txt"),
        ("file:///home/me/news.txt", "news.txt"),
        ("~/models/bert", "bert"),
        ("~someone/bert/", "bert"),
        ("../other/bert", "bert"),
        ("./../other/bert", "bert"),
        ("runs/../../bert", "bert"),
        ("/home/me/my runs/one", "one"),
        ("/home/me/runs/one/student", "one/student"),
        ("/home/me/runs/one/student/config.json", "one/student/config.json"),
        (str(BUILTIN_FOLDER / "teacher" / "config.json"), "builtin:teacher/config.json"),
        ("/", "/"),
        ("..", ".."),
        ("...", "..."),
        ("~", "~"),
    ],
)
def test_what_is_shown_of_a_path(path, shown):
    assert shown_path(path) == shown
    assert shown_text(path) == shown


def test_what_lies_in_the_working_folder_is_shown_from_there(tmp_path, monkeypatch):
    assert shown_path(str(tmp_path / "runs" / "one")) == "runs/one"
    assert shown_path(f"../{tmp_path.name}/runs/one") == "runs/one"
    assert shown_path(f"{tmp_path}-other/one") == "one"
    monkeypatch.chdir("/")  # below which everything lies
    assert shown_path("/home/me/one") == "one"


def test_a_model_in_the_cache_of_the_hub_keeps_its_name():
    commit = "0123456789" * 4
    place = f"/home/me/.cache/huggingface/hub/models--org--name/snapshots/{commit}/config.json"
    assert shown_path(place) == f"models--org--name/snapshots/{commit}/config.json"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SST-2, /home/me/glue/SST-2", "SST-2, SST-2"),
        ("/home/me/a.txt, /home/me/b.txt", "a.txt, b.txt"),
        ("{kind: checkpoint, model: /home/me/bert}", "{kind: checkpoint, model: bert}"),
        ("/home/me/x.json: is not valid (line 3)", "x.json: is not valid (line 3)"),
        ("flips / ECE, 10.0 / 3.0, 1/2, tokens/s", "flips / ECE, 10.0 / 3.0, 1/2, tokens/s"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_paths_in_a_text(text, shown):
    assert shown_text(text) == shown


def test_a_command_is_shown_word_by_word():
    words = ["train", "--output=/home/me/out", "task.folder=/home/me/my data/SST-2", "a={b: ~/c/d}"]
    assert shown_words(words) == ["train", "--output=out", "task.folder=SST-2", "a={b: d}"]


def test_a_tree_keeps_all_but_its_paths():
    tree = {"a": ["/home/me/x", 1, None], "b": {"c": "~/y/z", "d": 0.5}}
    assert shown_tree(tree) == {"a": ["x", 1, None], "b": {"c": "z", "d": 0.5}}


def test_short_names_leave_out_folders_of_any_path():
    assert short_name("runs/one/student") == "one/student"
    assert short_name("data/news.txt") == "news.txt"
