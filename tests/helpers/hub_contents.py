"""What the repositories of the tests' own hub hold, and how the hub lists it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".onnx", ".parquet")  # what is uploaded before the commit


@dataclass
class Repository:
    """What one repository holds.

    Attributes:
        files: of each commit, the newest last.
        names: commits by branch or tag, beside `main`.
        is_private: whether only those with a token see it.
        gated: whether nobody may read its files.
        messages: of the commits that were made here.
    """

    files: dict[str, dict[str, bytes]]
    names: dict[str, str] = field(default_factory=dict)
    is_private: bool = False
    is_gated: bool = False
    messages: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        """The newest commit."""
        return list(self.files)[-1]

    def commit_of(self, revision: str) -> str | None:
        """The commit that a revision is at."""
        if revision == "main":
            return self.head
        commit = self.names.get(revision, revision)
        return commit if commit in self.files else None

    def add(self, files: Mapping[str, bytes], message: str) -> str:
        """Make a commit that changes or adds some files."""
        before = self.files[self.head]
        commit = sha1(f"{len(self.files)}".encode()).hexdigest()
        self.files[commit] = before | dict(files)
        self.messages.append(message)
        return commit


def oid_of(path: str, content: bytes) -> str:
    """What git or its large files call a content."""
    if path.endswith(LARGE):
        return sha256(content).hexdigest()
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


def file_entry(path: str, content: bytes) -> dict[str, Any]:
    """A file in a list of files."""
    return {"type": "file", "path": path, "size": len(content), "oid": oid_of(path, content)}


def folder_entry(path: str) -> dict[str, Any]:
    """A folder in a list of files."""
    return {"type": "directory", "path": path, "size": 0, "oid": sha1(path.encode()).hexdigest()}
