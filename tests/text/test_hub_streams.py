"""Data sets of the hub by name, streamed by the real `datasets` from a server of the tests' own."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_contents import COMMIT, Repository
from hub_server import hub_of

from distilcli.config.data import HubSource, RowHub
from distilcli.errors import DataError
from distilcli.text.hub import hub_rows

ROWS = [{"text": f"text {number}", "number": number} for number in range(50)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
OLDER = "a" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    # The client waits a second before it takes up a download.
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with hub_of(None, tmp_path / "cache", monkeypatch) as server:
        yield server


def texts(source) -> list[str]:
    return [row["text"] for row in hub_rows(source, ["text"])]


def test_a_data_set_is_streamed_by_name_subset_split_and_revision(hub):
    older = {"part/train.jsonl": LINES[: LINES.index(b"\n") + 1], "part/test.jsonl": LINES}
    newest = older | {"part/train.jsonl": LINES}
    files = {OLDER: older, COMMIT: newest}
    hub.repositories["datasets/someone/streamed"] = Repository(files, {"v1": OLDER})
    assert texts(HubSource(hub="someone/streamed")) == [row["text"] for row in ROWS]
    assert texts(HubSource(hub="someone/streamed", revision="v1")) == ["text 0"]
    assert texts(RowHub(hub="someone/streamed", split="test")) == [row["text"] for row in ROWS]


def test_what_is_not_read_is_not_fetched(hub):
    files = {"train.jsonl": LINES, "test.jsonl": LINES}
    hub.repositories["datasets/someone/lazy"] = Repository({COMMIT: files})
    rows = hub_rows(HubSource(hub="someone/lazy"), ["text"])
    assert next(rows) == {"text": "text 0"}
    assert "test.jsonl" not in hub.requests


@pytest.mark.parametrize("kind", ["jsonl", "gz", "parquet"])
def test_a_connection_that_breaks_in_the_middle_loses_no_row(hub, kind, tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    files = {
        "jsonl": {"train.jsonl": LINES},
        "gz": {"train.jsonl.gz": gzip.compress(LINES, mtime=0)},
        "parquet": {"train.parquet": (tmp_path / "rows.parquet").read_bytes()},
    }
    hub.repositories[f"datasets/someone/broken-{kind}"] = Repository({COMMIT: files[kind]})
    hub.breaks = 2
    assert texts(HubSource(hub=f"someone/broken-{kind}")) == [row["text"] for row in ROWS]
    assert hub.breaks == 0


def test_a_private_or_gated_data_set_says_what_to_do(hub):
    files = {COMMIT: {"train.jsonl": LINES}}
    hub.repositories["datasets/someone/closed"] = Repository(files, is_private=True)
    with pytest.raises(DataError, match="the hub has no such data set for you") as caught:
        texts(HubSource(hub="someone/closed"))
    assert "log in" in caught.value.hint
    hub.repositories["datasets/someone/gated"] = Repository(files, is_gated=True)
    with pytest.raises(DataError, match="access to it is restricted on the hub") as caught:
        texts(HubSource(hub="someone/gated"))
    assert "Ask for access on the data set's page" in caught.value.hint


def test_a_revision_that_a_data_set_does_not_have(hub):
    hub.repositories["datasets/someone/one"] = Repository({COMMIT: {"train.jsonl": LINES}})
    with pytest.raises(DataError, match="the hub has no revision 'v9' of it"):
        texts(HubSource(hub="someone/one", revision="v9"))
