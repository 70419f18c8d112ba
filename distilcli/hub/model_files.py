"""Where the files of a model lie: in a folder, or on the hub, from which each is fetched.

Whatever can be wrong with a name or a file is a `ModelError` here; transformers, which looks at
more files than we want (adapters, pickles, code), is given none of them to find.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from distilcli.errors import ModelError
from distilcli.files.paths import resolve_path
from distilcli.hub.answers import hub_answer, is_of_large_files

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    TOKENIZER_CONFIG,
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "tokenizer.model",
)
_FIRST = (CONFIG, TOKENIZER_CONFIG)  # asked for at a branch or tag; the others at its commit
MAX_JSON_BYTES = 64 * 2**20  # of a config or an index, which are a thousand times smaller
COPY_AGAIN = "Copy or download it again."


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        where: opens every error message.
        folder: where they lie; None on the hub.
        repository: name on the hub; empty where there is a folder.
        commit: of the repository; all files are of this one.
    """

    where: str
    folder: Path | None
    repository: str = ""
    commit: str = ""

    def find(self, name: str) -> Path | None:
        """A file on this machine, fetched if need be; None where the model has none of this name.

        Raises:
            ModelError: the hub does not give it.
        """
        if self.folder is None:
            return _fetched(self.repository, name, self.commit, self.where)
        path = self.folder / name
        if path.is_symlink() and not path.exists():
            raise ModelError(
                f"{self.where}: {name} is a link to a file that is not there", COPY_AGAIN
            )
        return path if path.is_file() else None

    def names(self) -> list[str]:
        """What is in the folder; nothing on the hub, which is not asked for a list."""
        if self.folder is None:
            return []
        try:
            return sorted(path.name for path in self.folder.iterdir())
        except OSError as error:
            raise unreadable(self.where, self.folder.name, error) from error

    def folder_of(self, names: tuple[str, ...]) -> Path:
        """The folder that holds those of these files that there are, fetched if need be.

        Raises:
            ModelError: the hub does not give them, or gives none.
        """
        if self.folder is not None:
            return self.folder
        paths = [path for name in names if (path := self.find(name)) is not None]
        if not paths:
            raise ModelError(f"{self.where}: it has no {names[0]}", "Name another model.")
        return paths[0].parent

    def json_object(self, name: str) -> dict[str, Any] | None:
        """The JSON object that a file holds; None where there is no such file.

        Raises:
            ModelError: it cannot be read, or is something else.
        """
        value = self.json_value(name)
        if value is not None and not isinstance(value, dict):
            raise _invalid(self.where, name, "it is not a JSON object")
        return value

    def json_value(self, name: str) -> Any:
        """What a JSON file holds; None where there is no such file.

        Raises:
            ModelError: it cannot be read, or is not JSON.
        """
        path = self.find(name)
        if path is None:
            return None
        try:
            if path.stat().st_size > MAX_JSON_BYTES:
                raise ValueError(f"it is over {MAX_JSON_BYTES // 2**20} MiB")
            text = path.read_bytes().decode("utf-8")
            value = json.loads(text, parse_constant=_refuse_constant)
            if value is None:
                raise ValueError("it is null")
        except OSError as error:
            raise unreadable(self.where, name, error) from error
        except UnicodeDecodeError as error:
            raise _invalid(self.where, name, f"byte {error.start + 1} is not UTF-8") from error
        except RecursionError as error:
            raise _invalid(self.where, name, "nested too deeply") from error
        except ValueError as error:
            raise _invalid(self.where, name, str(error)) from error
        return value


def model_files(name: str, revision: str | None, where: str) -> ModelFiles:
    """The files of the model, or of the tokenizer alone, that a name stands for.

    Args:
        name: folder, hub name or builtin:NAME.
        revision: of the hub: commit, tag or branch.
        where: opens every error message.

    Raises:
        ModelError: there is no such folder or model.
    """
    path = resolve_path(name)
    looks_local = path != name or name.startswith((".", "/", "~")) or name.count("/") > 1
    folder = Path(path).expanduser() if name.startswith("~") else Path(path)
    try:
        str(folder).encode()
        is_folder = folder.is_dir()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"{where}: a name in this path is not UTF-8, and safetensors opens no such file",
            "Rename the folder.",
        ) from error
    except OSError as error:
        raise unreadable(where, str(folder), error) from error
    if looks_local and not is_folder:
        raise ModelError(
            f"{where}: no such folder", "Check the path, or give the name of a hub model."
        )
    if is_folder:
        return ModelFiles(where, folder)
    return ModelFiles(where, None, name, _commit(name, revision or "main", where))


def unreadable(where: str, name: str, error: OSError) -> ModelError:
    """The error for a file that is there and cannot be read."""
    return ModelError(
        f"{where}: {name} cannot be read ({error.strerror or error})", "Check its permissions."
    )


def _invalid(where: str, name: str, reason: str) -> ModelError:
    return ModelError(f"{where}: its {name} is not valid ({reason})", COPY_AGAIN)


def invalid_config(where: str, reason: str) -> ModelError:
    """The error for a config.json that cannot be used."""
    return ModelError(
        f"{where}: its {CONFIG} is not valid ({reason})",
        "Use the config.json that was saved with these weights.",
    )


# The hub


@lru_cache
def _commit(repository: str, revision: str, where: str) -> str:
    """The commit that a revision is at now: files of one model must not be of two."""
    for name in _FIRST:
        path = _fetched(repository, name, revision, where)
        if path is not None:
            return path.parent.name  # the cache has a folder for each commit
    raise ModelError(f"{where}: it has no config.json", "Name a model of transformers.")


def is_offline() -> bool:
    """Whether the user wants nothing to be fetched (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _fetched(repository: str, name: str, revision: str, where: str) -> Path | None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        in_cache = try_to_load_from_cache(repository, name, revision=revision)
        if name not in _FIRST and in_cache is not None:
            # Either the file, or a mark that says that this commit has none of the name.
            return Path(in_cache) if isinstance(in_cache, str) else None
        with _quiet_retries() if name in _FIRST else nullcontext():
            return Path(hf_hub_download(repository, name, revision=revision))
    except RemoteEntryNotFoundError as error:
        if is_of_large_files(error):
            raise hub_refusal(error, revision, where) from error
        return None
    except Exception as error:  # network, hub and file errors share no base class
        if is_offline() and name not in _FIRST:
            return None
        raise hub_refusal(error, revision, where) from error


@contextmanager
def _quiet_retries() -> Iterator[None]:
    """Keep the hub's client from telling of each try inside the block; our error tells of the last.

    The first file of a model says whether there is such a model at all, and most names that the hub
    does not have are mistyped.
    """
    logger = logging.getLogger("huggingface_hub.utils._http")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def hub_refusal(error: BaseException, revision: str, where: str) -> ModelError:
    """Why neither this machine nor the hub gives a model.

    Args:
        error: of the hub's client.
        revision: that was asked for.
        where: opens the message.
    """
    message, hint = hub_answer(error, revision, "model") or (
        f"cannot be read here or on the hub ({first_line(error)})",
        "Check the name and the network; on a machine without one, give a folder.",
    )
    return ModelError(f"{where}: {message}", hint)


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line of bounded length."""
    return short((str(error).strip() or type(error).__name__).splitlines()[0], 300)


def short(text: str, length: int = 60) -> str:
    """The text, or its beginning where it is longer."""
    return text if len(text) <= length else text[: length - 3] + "..."


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
