"""Uploads by the real client of the hub to a server of the tests' own.

What stands in the way is found before anything is made, and nothing ever shows the token.
"""

from pathlib import Path

import pytest
from hub_contents import COMMIT, Repository
from hub_server import Hub, hub_of
from huggingface_hub import constants

from distilcli.errors import ConfigError
from distilcli.hub.uploading import Destination, UploadError, checked_destination, upload

TOKEN = "hf_verysecretverysecretverysecret"
# The hub's client hands files to its HTTP client in a way that that one has given another name.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
LOG_IN = "`hf auth login` (or HF_TOKEN)"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_of(None, tmp_path / "cache", monkeypatch) as server:
        server.tokens[TOKEN] = "write"
        yield server


@pytest.fixture
def student(tmp_path) -> Path:
    folder = tmp_path / "student"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "1_Pooling" / "config.json").write_text("[]")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Card\n")
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / ".lock").write_text("")
    return folder


def test_all_files_go_into_one_commit_of_a_private_repository(hub: Hub, student):
    found = checked_destination(Destination("someone/new"), may_create=True)
    address = upload(student, found, "A student")
    repository = hub.repositories["someone/new"]
    assert repository.is_private
    assert repository.messages == ["A student"]
    assert repository.files[repository.head] == {
        str(path.relative_to(student)): path.read_bytes()
        for path in student.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    assert address == f"{hub.endpoint}/someone/new/commit/{repository.head}"


def test_a_name_alone_is_below_the_user(hub):
    found = checked_destination(Destination("new", is_public=True), may_create=True)
    assert found == Destination("someone/new", is_public=True)
    assert found.address == f"{hub.endpoint}/someone/new"
    assert not hub.repositories["someone/new"].is_private


def test_a_check_alone_makes_nothing(hub):
    hub.organisations["lab"] = "write"
    checked_destination(Destination("lab/new"), may_create=False)
    assert hub.repositories == {}


def test_an_upload_that_was_cut_off_is_taken_up(hub, student):
    found = checked_destination(Destination("someone/new"), may_create=True)
    hub.failures["POST .*/commit/"] = 1, (500, {})
    with pytest.raises(UploadError, match=r"server error \(500\)"):
        upload(student, found, "A student")
    assert sum("PUT /large/" in request for request in hub.asked) == 1
    upload(student, found, "A student")
    upload(student, found, "A student")  # nothing has changed: no commit without content
    assert sum("PUT /large/" in request for request in hub.asked) == 1
    assert hub.repositories["someone/new"].messages == ["A student"]


def test_a_server_that_stumbles_is_asked_again(hub, student):
    found = checked_destination(Destination("someone/new"), may_create=True)
    hub.failures["PUT /large/"] = 2, (503, {})
    hub.failures["POST .*/preupload/"] = 2, (429, {})
    upload(student, found, "A student")
    assert hub.repositories["someone/new"].messages == ["A student"]


def test_files_of_others_in_the_repository_stay(hub, student):
    hub.repositories["someone/old"] = Repository(
        {COMMIT: {"theirs.txt": b"1", "config.json": b"2"}}, is_private=True
    )
    found = checked_destination(Destination("someone/old"), may_create=True)
    upload(student, found, "A student")
    files = hub.repositories["someone/old"].files
    newest = files[hub.repositories["someone/old"].head]
    assert (newest["theirs.txt"], newest["config.json"]) == (b"1", b"{}")


def refused(repository: str, kind=ConfigError, **more) -> ConfigError:
    with pytest.raises(kind) as caught:
        checked_destination(Destination(repository, **more), may_create=True)
    assert TOKEN not in f"{caught.value.message} {caught.value.hint} {caught.value.record()}"
    return caught.value


def test_a_name_that_is_none(hub):
    for name in ("a/b/c", "/home/me/student", "some one/x", "a--b", "", "x/y.git"):
        assert "is not a name of the hub" in refused(name).message
    assert hub.asked == []


def test_nobody_is_logged_in(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    error = refused("someone/new")
    assert error.message == "upload: nobody is logged in to the hub"
    assert error.hint == f"Log in: {LOG_IN}."
    assert hub.asked == []


def test_offline_nothing_is_sent(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused("someone/new").message
    assert hub.asked == []


def test_a_token_that_the_hub_does_not_know(hub):
    hub.tokens = {}
    error = refused("someone/new")
    assert error.message == "someone/new on the hub: the hub does not accept your login (401)"
    assert error.hint == f"Log in again: {LOG_IN}; or unset HF_TOKEN."


def test_a_token_that_may_only_read(hub):
    hub.tokens[TOKEN] = "read"
    error = refused("someone/new")
    assert error.message == "upload: the token of someone may only read"
    assert "settings/tokens" in error.hint


@pytest.mark.parametrize("role", [None, "read"])
def test_an_organisation_in_which_the_user_may_not_write(hub, role):
    hub.organisations = {"lab": "admin"} | ({"theirs": role} if role else {})
    error = refused("theirs/new")
    assert error.message == "upload: someone may not write into theirs on the hub"
    assert error.hint == f"Give NAME below someone, lab, or log in as someone else: {LOG_IN}."
    assert hub.repositories == {}


def test_a_token_of_narrower_rights_than_the_user_has(hub):
    """Of fine-grained tokens only the attempt says what they may do."""
    hub.tokens[TOKEN] = "fineGrained"
    error = refused("someone/new")
    assert error.message == "someone/new on the hub: your token may not write there (403)"


def test_nobody_publishes_by_mistake(hub):
    hub.repositories["someone/open"] = Repository({COMMIT: {}})
    hub.repositories["someone/closed"] = Repository({COMMIT: {}}, is_private=True)
    assert "someone/open is public, so everyone would see" in refused("someone/open").message
    error = refused("someone/closed", is_public=True)
    assert error.message == "--public: someone/closed is there already, and private"
    for name, is_public in (("someone/open", True), ("someone/closed", False)):
        checked_destination(Destination(name, is_public), may_create=True)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (429, "someone/new on the hub: the hub has had too many requests from here (429)"),
        (503, "someone/new on the hub: the hub had a server error (503)"),
    ],
)
def test_a_hub_that_does_not_answer_is_no_mistake_of_the_user(hub, status, message):
    hub.failure = status, {}
    assert refused("someone/new", UploadError).message == message


def test_no_hub_at_all(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    error = refused("someone/new", UploadError)
    assert error.message.startswith("someone/new on the hub: it cannot be reached")


def test_a_card_that_the_hub_refuses_is_said_before_anything_is_sent(hub, student):
    (student / "README.md").write_text("---\nlicense: invented\n---\n")
    found = checked_destination(Destination("someone/new"), may_create=True)
    with pytest.raises(UploadError, match=r'refuses the card \("license" must be one of'):
        upload(student, found, "A student")
    assert not [request for request in hub.asked if "PUT" in request]


def test_metadata_that_the_hub_refuses_is_said_before_a_repository_is_made(hub):
    with pytest.raises(ConfigError) as caught:
        checked_destination(
            Destination("someone/new"), may_create=True, card={"license": "invented"}
        )
    assert caught.value.message == (
        'someone/new on the hub: it refuses the card ("license" must be one of [...])'
    )
    assert hub.repositories == {}
    checked_destination(Destination("someone/new"), may_create=True, card={"license": "mit"})
    assert hub.repositories.keys() == {"someone/new"}


def test_a_hub_without_a_storage_for_large_files_says_what_to_set(hub, student, monkeypatch):
    """With hf_xet, the client sends large files there, whatever hub it is."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    found = checked_destination(Destination("someone/new"), may_create=True)
    with pytest.raises(UploadError, match=r"\(Xet\) does not answer here") as caught:
        upload(student, found, "A student")
    assert caught.value.hint == "HF_HUB_DISABLE_XET=1 does without it."


def test_what_an_error_says_of_the_token_is_taken_out(hub, student, monkeypatch):
    def fail(*_args, **_more):
        raise OSError(f"Authorization: Bearer {TOKEN}")

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", fail)
    with pytest.raises(UploadError) as caught:
        upload(student, Destination("someone/new"), "A student")
    assert "[token]" in caught.value.message
    assert TOKEN not in caught.value.message
