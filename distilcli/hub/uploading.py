"""Uploads to the hub: what stands in their way is found before hours of training, not after them.

The token comes from the hub's client (`hf auth login`, HF_TOKEN); nothing here shows or keeps it.
An upload that is cut off is taken up by the next one: what the hub has already is not sent again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distilcli.errors import ConfigError, DistilError
from distilcli.files.json_text import parse_json
from distilcli.hub.answers import LOG_IN, hub_answer, status_of
from distilcli.hub.model_files import first_line, is_offline
from distilcli.hub.names import is_repository_name

WRITE_TOKENS = "https://huggingface.co/settings/tokens"
_HIDDEN = "[token]"


class UploadError(DistilError):
    """What was to be uploaded is here, and the hub has not taken it."""

    exit_code = 1


@dataclass(frozen=True)
class Destination:
    """Where an upload goes.

    Attributes:
        repository: its name on the hub, as ORG/NAME; as NAME alone it is that of the user.
        is_public: whether everyone may see it.
    """

    repository: str
    is_public: bool = False

    @property
    def address(self) -> str:
        """Its page."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.repository}"


def checked_destination(
    destination: Destination, *, may_create: bool, card: Mapping[str, Any] | None = None
) -> Destination:
    """The destination with its full name, if this user may write there.

    Args:
        destination: as it was typed.
        may_create: make the repository where there is none: that alone shows that it can be made.
        card: of what the card will say as metadata, what is known; the hub may refuse it, as it
            does a licence that it does not know.

    Raises:
        ConfigError: the name is none, nobody is logged in, the token may only read or may not write
            there, the hub refuses the card, or the repository is public where it should not be.
        UploadError: the hub does not answer.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    name = destination.repository
    if not is_repository_name(name):
        raise ConfigError(
            f"upload: {name!r} is not a name of the hub",
            "Give ORG/NAME, of letters, digits, '.', '_' and '-'.",
        )
    if is_offline():
        raise ConfigError(
            "upload: HF_HUB_OFFLINE is set, so nothing can be sent to the hub",
            "Unset it, or upload nothing.",
        )
    if get_token() is None:
        raise ConfigError("upload: nobody is logged in to the hub", f"Log in: {LOG_IN}.")
    api = HfApi()
    with _in_words(name, ConfigError):
        found = Destination(_full_name(name, api.whoami()), destination.is_public)
        _check_card(found, card or {})
        try:
            there: Any = api.model_info(found.repository)
        except RepositoryNotFoundError:
            there = None
        if there is None and may_create:
            api.create_repo(found.repository, private=not found.is_public)
        elif there is not None:
            api.auth_check(found.repository, write=True)
            _check_visibility(found, bool(there.private))
    return found


def _full_name(name: str, account: dict[str, Any]) -> str:
    """The name with its owner, in whose place this user may make repositories.

    Raises:
        ConfigError: the token or the user may not.
    """
    user = str(account.get("name"))
    if (account.get("auth") or {}).get("accessToken", {}).get("role") == "read":
        raise ConfigError(
            f"upload: the token of {user} may only read",
            f"Make one that may write ({WRITE_TOKENS}), and log in with it: {LOG_IN}.",
        )
    owner, slash, _ = name.partition("/")
    if not slash:
        return f"{user}/{name}"
    roles = {str(one.get("name")): one.get("roleInOrg") for one in account.get("orgs") or []}
    if owner != user and roles.get(owner, "read") == "read":
        writable = [user, *(org for org, role in roles.items() if role != "read")]
        raise ConfigError(
            f"upload: {user} may not write into {owner} on the hub",
            f"Give NAME below {', '.join(writable)}, or log in as someone else: {LOG_IN}.",
        )
    return name


def _check_visibility(destination: Destination, is_private: bool) -> None:
    if destination.is_public == (not is_private):
        return
    if is_private:
        raise ConfigError(
            f"--public: {destination.repository} is there already, and private",
            "Make it public on its page, or leave --public out.",
        )
    raise ConfigError(
        f"upload: {destination.repository} is public, so everyone would see what is sent",
        "Give --public if they shall, or another name.",
    )


def _check_card(destination: Destination, card: Mapping[str, Any]) -> None:
    """Ask the hub whether it takes this metadata.

    Raises:
        ConfigError: it does not.
    """
    from huggingface_hub import ModelCard

    if not card:
        return
    try:
        ModelCard(f"---\n{yaml.safe_dump(dict(card), allow_unicode=True)}---\n").validate()
    except ValueError as error:  # with the body of the hub's answer
        raise ConfigError(
            f"{destination.repository} on the hub: it refuses the card ({_reasons(error)})",
            "Correct section card.",
        ) from None


def _reasons(error: ValueError) -> str:
    """Why the hub does not take a card."""
    try:
        return "; ".join(str(one["message"]) for one in parse_json(str(error))["errors"])
    except (ValueError, LookupError, TypeError):
        return first_line(error)


def upload(folder: Path, destination: Destination, message: str) -> str:
    """Send all files of a folder in one commit; its address.

    Files that the repository has beside these stay there. What is as it was is not sent again.

    Raises:
        UploadError: the hub does not take them.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    with _in_words(destination.repository, UploadError):
        commit = HfApi().create_commit(
            destination.repository,
            [CommitOperationAdd(str(path), str(folder / path)) for path in files],
            commit_message=message,
        )
    return str(commit.commit_url)


@contextmanager
def _in_words(repository: str, refused: type[DistilError]) -> Iterator[None]:
    """Say in words what the hub answers instead, without the token that it was asked with.

    Args:
        repository: opens the message.
        refused: of this class where the hub does not want it.
    """
    from huggingface_hub import get_token

    try:
        yield
    except DistilError:
        raise
    except Exception as error:  # network and hub errors share no base class
        status = status_of(error)
        message, hint = _answer(error, status)
        kind = refused if status is not None and status < 500 and status != 429 else UploadError
        text = f"{repository} on the hub: {message}".replace(get_token() or _HIDDEN, _HIDDEN)
        raise kind(text, hint) from None


def _answer(error: Exception, status: int | None) -> tuple[str, str]:
    if isinstance(error, ValueError) and "README.md" in str(error):
        reason = "; ".join(line.strip("- ") for line in str(error).splitlines()[1:])
        return f"it refuses the card ({reason})", "Correct README.md, or section card; push again."
    if status == 403:
        return (
            "your token may not write there (403)",
            f"Make one that may ({WRITE_TOKENS}), and log in with it: {LOG_IN}.",
        )
    return hub_answer(error, "main", "model") or (
        f"it cannot be reached, or does not take this ({first_line(error)})",
        "Check the network, and try again.",
    )
