"""Data sets of the hub: what it answers instead of one is said in words.

The real clients ask a server of the tests' own.
"""

from types import SimpleNamespace

import pytest
from hub_server import hub_of

from distilcli.config.data import HubSource
from distilcli.errors import DataError
from distilcli.hub.answers import hub_answer
from distilcli.text.hub import hub_rows

LOG_IN = "`hf auth login` (or HF_TOKEN)"
ANSWERS = {
    "no login": (
        (401, {"X-Error-Code": "RepoNotFound"}),
        "no such folder, and the hub has no such data set for you",
        f"Check the name; for a private data set log in: {LOG_IN}.",
    ),
    "not there": (
        (404, {"X-Error-Code": "RepoNotFound"}),
        "no such folder, and the hub has no such data set for you",
        f"Check the name; for a private data set log in: {LOG_IN}.",
    ),
    "wrong login": (
        (401, {}),
        "the hub does not accept your login (401)",
        f"Log in again: {LOG_IN}; or unset HF_TOKEN.",
    ),
    "gated": (
        (403, {"X-Error-Code": "GatedRepo"}),
        "access to it is restricted on the hub (403)",
        f"Ask for access on the data set's page, then log in: {LOG_IN}.",
    ),
    "revision": (
        (404, {"X-Error-Code": "RevisionNotFound"}),
        "the hub has no revision 'main' of it",
        "Check the revision.",
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_the_hub_answers_is_said_in_words(answer, tmp_path, monkeypatch):
    failure, message, hint = ANSWERS[answer]
    with hub_of(tmp_path, tmp_path / "cache", monkeypatch) as hub:
        hub.failure = failure
        with pytest.raises(DataError) as caught:
            list(hub_rows(HubSource(hub="someone/data"), ["text"]))
    assert caught.value.message.startswith(f"data set someone/data after row 0: {message}")
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (429, "the hub has had too many requests from here (429)"),
        (503, "the hub had a server error (503)"),
    ],
)
def test_what_the_client_tries_for_long_is_said_as_well(status, message):
    """The client tries some five times, over half a minute, before it gives up."""
    refusal = OSError("refused")
    refusal.response = SimpleNamespace(status_code=status)  # as errors of the client have it
    error = ConnectionError("someone/data")
    error.__cause__ = refusal
    answer = hub_answer(error, "main", "data set")
    assert answer is not None
    assert answer[0] == message
    assert hub_answer(ValueError("a bad row"), "main", "data set") is None
