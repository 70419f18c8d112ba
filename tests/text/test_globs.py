"""Paths and globs: each file is read once, and no link leads in circles."""

import glob
import os
from pathlib import Path

import pytest

from distilcli.config.data import FilesSource, RowFiles
from distilcli.errors import DataError
from distilcli.tasks.examples import read_examples
from distilcli.text.globs import matching_files
from distilcli.text.sources import Reader, resolve


@pytest.fixture
def tree(tmp_path) -> Path:
    """a.txt, one/b.txt, one/deep/c.txt, two/d.txt, and what no pattern should find."""
    for name in ("a.txt", "one/b.txt", "one/deep/c.txt", "two/d.txt", "two/e.csv", ".hidden/f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    return tmp_path


def found(tree: Path, *patterns: str) -> list[str]:
    matches = matching_files([str(tree / pattern) for pattern in patterns], "data.sources.0")
    return [str(path.relative_to(tree)) for path in matches]


@pytest.mark.parametrize(
    "pattern",
    [
        "**/*.txt",
        "*.txt",
        "*/*.txt",
        "**",
        "**/deep/*",
        "*/**/*.txt",
        "**/one/**/*.txt",
        "*/deep/*",
    ],
)
def test_without_links_a_glob_is_what_python_makes_of_it(tree, pattern):
    expected = sorted(glob.glob(str(tree / pattern), recursive=True))
    files = [str(Path(path).relative_to(tree)) for path in expected if Path(path).is_file()]
    assert files
    assert found(tree, pattern) == files


def test_a_relative_glob_begins_in_the_working_directory(tree, monkeypatch):
    monkeypatch.chdir(tree)
    paths = matching_files(["**/*.txt"], "data.sources.0")
    assert [str(path) for path in paths] == ["a.txt", "one/b.txt", "one/deep/c.txt", "two/d.txt"]


def test_a_file_is_read_once_whatever_it_is_called(tree, monkeypatch):
    (tree / "link.txt").symlink_to("a.txt")
    os.link(tree / "a.txt", tree / "z.txt")
    (tree / "three").symlink_to("one")
    monkeypatch.chdir(tree)
    assert found(tree, "*.txt", "**/*.txt", "one/../a.txt") == [
        "a.txt",
        "one/b.txt",
        "one/deep/c.txt",
        "two/d.txt",
    ]
    twice = matching_files(["a.txt", "./a.txt", str(tree / "a.txt"), "link.txt"], "task.train")
    assert twice == [Path("a.txt")]


def test_a_folder_that_only_a_link_leads_to_is_read(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "g.txt").write_text("g")
    (tree / "more").symlink_to(elsewhere)
    assert "more/g.txt" in found(tree, "**/*.txt")


def test_links_between_folders_are_not_followed_along_every_path(tree):
    """Each of twenty folders has a link to each other one: more paths than could ever be walked."""
    root = tree / "many"
    for index in range(20):
        (root / str(index)).mkdir(parents=True)
        (root / str(index) / "text.txt").write_text(str(index))
    for index in range(20):
        for other in range(index):
            (root / str(index) / f"to{other}").symlink_to(root / str(other))
    assert len(found(tree, "many/**/*.txt")) == 20


@pytest.mark.parametrize("pattern", ["**/*.txt", "one/**", "*/**/*.txt"])
def test_a_link_to_a_folder_above_is_refused(tree, pattern):
    (tree / "one" / "deep" / "back").symlink_to(tree / "one")
    with pytest.raises(DataError) as caught:
        found(tree, pattern)
    one = tree / "one"
    expected = f"data.sources.0.files: {one}/deep/back leads back to {one}, in which it lies"
    assert caught.value.message == expected
    assert "Remove that link" in caught.value.hint


def test_a_link_to_a_missing_file_is_refused(tree):
    """Its text would be missing without a word, as where big files were not fetched."""
    (tree / "two" / "gone.txt").symlink_to(tree / "nowhere.txt")
    with pytest.raises(DataError, match=r"two/gone.txt is a link to a file that is not there"):
        found(tree, "**/*.txt")
    (tree / "itself.txt").symlink_to("itself.txt")
    with pytest.raises(DataError, match=r"itself.txt is a link to a file that is not there"):
        found(tree, "*.txt")


def test_sources_of_one_list_share_what_was_read(tree):
    """The same file in two sources is one text; another column of it is another one."""
    table = tree / "two" / "e.csv"
    table.write_text("text,title\nwords,name\n")
    sources = [
        FilesSource(files=[str(tree / "*.txt")], documents="line"),
        FilesSource(files=[str(tree / "a.txt")], documents="file"),
        FilesSource(files=[str(table)]),
        FilesSource(files=[str(table)], text_column="title"),
    ]
    inputs = resolve(sources, "data.sources")
    assert list(Reader(inputs).documents(inputs)) == ["a.txt\n", "words", "name"]


def test_rows_of_a_task_are_read_once_and_refuse_loops(tree):
    for name in ("a", "b"):
        (tree / "two" / f"{name}.csv").write_text(f"text,label\n{name},x\n")
    (tree / "two" / "e.csv").unlink()
    (tree / "two" / "c.csv").symlink_to("b.csv")
    source = RowFiles(files=[str(tree / "**/*.csv"), str(tree / "two/a.csv")])

    def rows() -> list[str]:
        return read_examples(source, "task.train", ["text"], lambda row: row["text"], {}).usable

    assert rows() == ["a", "b"]
    (tree / "two" / "loop").symlink_to(tree)
    with pytest.raises(DataError, match=r"task.train.files: .*/two/loop leads back to"):
        rows()


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    """Its bytes come as half a surrogate pair, which no JSON of a store could hold."""
    (tmp_path / "good.txt").write_text("ba", encoding="utf-8")
    with (tmp_path / os.fsdecode(b"a\xff.txt")).open("w", encoding="utf-8") as file:
        file.write("ba")
    with pytest.raises(DataError) as caught:
        matching_files([f"{tmp_path}/*.txt"], "data.sources.0")
    assert "data.sources.0.files: a name in" in caught.value.message
    assert caught.value.message.endswith("a\\udcff.txt is not UTF-8")
    assert caught.value.hint == "Rename it, or leave it out."
    assert matching_files([f"{tmp_path}/g*.txt"], "data.sources.0") == [tmp_path / "good.txt"]
