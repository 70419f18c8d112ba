"""Markdown that says whether it was changed, and what that means for the folder that it is in."""

import pytest

from distilcli.errors import RunFolderError
from distilcli.files.marks import refuse_foreign, write_mark
from distilcli.files.signed_text import is_signed, is_signed_file, signed


def test_a_changed_word_is_noticed():
    text = signed("# A card\n\nIt says this.\n")
    assert is_signed(text)
    assert not is_signed(text.replace("this", "that"))
    assert not is_signed(text + "more\n")
    assert not is_signed("# A card\n")
    assert not is_signed("")


def test_a_card_that_came_later_may_be_replaced_and_an_edited_one_not(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    write_mark(tmp_path, "student")
    card = tmp_path / "README.md"
    card.write_text(signed("# One"))
    refuse_foreign(tmp_path)
    card.write_text(signed("# Another"))
    refuse_foreign(tmp_path)
    card.write_text(card.read_text() + "mine\n")
    with pytest.raises(RunFolderError, match=r"did not write: README\.md"):
        refuse_foreign(tmp_path)


def test_only_markdown_is_taken_for_signed(tmp_path):
    """Of other files the mark alone says whose they are."""
    for name in ("model.txt", "card.md"):
        (tmp_path / name).write_text(signed("text"))
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe")
    (tmp_path / "link.md").symlink_to(tmp_path / "card.md")
    found = [path.name for path in sorted(tmp_path.iterdir()) if is_signed_file(path)]
    assert found == ["card.md"]
