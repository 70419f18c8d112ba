"""Explains the error answers of the hub, for models and for data sets.

Loads nothing of the hub's client before there is an error of it.
"""

import errno
from collections.abc import Iterator

LOG_IN = "`hf auth login` (or HF_TOKEN)"
# Where there is no home, or one that is read only.
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_MOST_CAUSES = 10  # a chain of causes may be a circle


def hub_answer(error: BaseException, revision: str, kind: str) -> tuple[str, str] | None:
    """What the hub's answer means, and what to do; None where the error is no answer of the hub.

    Args:
        error: of the hub's client, or of a library that calls it.
        revision: that was asked for.
        kind: what was asked for: "model" or "data set".
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    answers = (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError)
    if is_of_large_files(error):
        return (
            "its storage for large files (Xet) does not answer here",
            "HF_HUB_DISABLE_XET=1 does without it.",
        )
    error = next(
        (cause for cause in _causes(error) if isinstance(cause, answers) or _status(cause)), error
    )
    status = _status(error)
    if status is None and (unwritable := _unwritable(error)):
        return (
            f"what the hub sends cannot be kept: {unwritable}",
            "Set HF_HOME to a folder that you may write to.",
        )
    if isinstance(error, HFValidationError):
        return "no such folder, and not a name of the hub", "Check the path or the name."
    # `datasets` keeps of the hub's answer no more than a sentence.
    sentence = str(error) if type(error).__name__ == "DatasetNotFoundError" else ""
    if isinstance(error, GatedRepoError) or "gated" in sentence:
        return (
            f"access to it is restricted on the hub ({status or 403})",
            f"Ask for access on the {kind}'s page, then log in: {LOG_IN}.",
        )
    if isinstance(error, RevisionNotFoundError) or sentence.startswith("Revision"):
        return f"the hub has no revision {revision!r} of it", "Check the revision."
    if isinstance(error, RepositoryNotFoundError) or status == 404 or sentence:
        return (
            f"no such folder, and the hub has no such {kind} for you ({status or 404})",
            f"Check the name; for a private {kind} log in: {LOG_IN}.",
        )
    if status in (401, 403):
        return (
            f"the hub does not accept your login ({status})",
            f"Log in again: {LOG_IN}; or unset HF_TOKEN.",
        )
    if status == 429:
        return (
            "the hub has had too many requests from here (429)",
            f"Wait some minutes, or log in, which allows for more: {LOG_IN}.",
        )
    if status is not None and status >= 500:
        return f"the hub had a server error ({status})", "Try again later, or give a folder."
    return None


def is_of_large_files(error: BaseException) -> bool:
    """Whether it is the hub's storage for large files that did not answer, and not the hub.

    The client goes there wherever hf_xet is installed, and mirrors do not all have one.
    """
    return any("/xet-" in str(cause) for cause in _causes(error))


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the hub's answer that an error, or what led to it, is about."""
    return next((status for cause in _causes(error) if (status := _status(cause))), None)


def _status(error: BaseException) -> int | None:
    """The HTTP status of the answer that an error is about."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _unwritable(error: BaseException) -> str | None:
    """The file or folder of the cache that an error is about; an error of the network has none."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.filename and cause.errno in _NOT_WRITABLE:
            return f"{cause.filename} ({cause.strerror})"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, the last first: `datasets` has errors of its own."""
    cause: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__
