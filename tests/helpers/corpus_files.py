"""What a token store holds, as lists and as files."""

import filecmp
from pathlib import Path


def all_sequences(split):
    return [split.tokens(index).tolist() for index in range(len(split))]


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def assert_same_files(one: Path, other: Path):
    assert files_of(one) == files_of(other)
    _, mismatch, errors = filecmp.cmpfiles(one, other, files_of(one), shallow=False)
    assert (mismatch, errors) == ([], [])
