"""What a run depends on, by content: a fingerprint for each thing that it reads.

A checkpoint keeps them, and a resume compares: a teacher that was replaced in place, rows that were
edited, a store that was made anew from other text would otherwise be trained on without a word.
There is one function for each kind of thing. They run once per start, on the main process alone,
and cost what reading costs (`digests.py`); nothing of this is in a step.
"""

from typing import Any, NamedTuple

from distilcli.config.models import NamedTeacher
from distilcli.corpus.store import TokenStore
from distilcli.files.digests import text_digest
from distilcli.files.json_text import to_json
from distilcli.hub.model_files import CONFIG, model_files
from distilcli.models.weights import weight_paths, weights_digest
from distilcli.text.tokenizers import tokenizer_fingerprint

# Of config.json: who wrote it, and from where; not what the model computes.
_NOT_COMPUTED = {"transformers_version", "_name_or_path", "_commit_hash"}


class Fingerprint(NamedTuple):
    """One thing that was read.

    Attributes:
        place: where, for people; a copy elsewhere is the same thing.
        digest: of its content; hexadecimal.
    """

    place: str
    digest: str


# What a teacher put out for the inputs, kept on disk. But for rounding it follows from the teacher
# and the inputs, and it may be computed again elsewhere: a change is told, and not refused. What
# other teachers put out is called so too, with their keys after it.
TEACHER_OUTPUTS = "teacher.cache outputs"
# By what it is: a key of the experiment, or a file of the run folder.
Identity = dict[str, Fingerprint]


def identity_of_model(key: str, name: str, revision: str | None = None) -> Identity:
    """Fingerprints of a model's configuration and weights, from its files.

    Args:
        key: what the model is in the experiment, such as teacher.model.
        name: folder, hub name or builtin:NAME, which has been loaded before.
        revision: of the hub.

    Raises:
        ModelError: its files are not there any more.
    """
    files = model_files(name, revision, f"{key} {name}")
    config = files.json_object(CONFIG) or {}
    config = {key: value for key, value in config.items() if key not in _NOT_COMPUTED}
    paths = weight_paths(files)
    folder = paths[0].parent
    place = str(paths[0]) if len(paths) == 1 else str(folder)
    return {
        f"{key} configuration": Fingerprint(
            str(folder / CONFIG), text_digest(to_json(config, sort_keys=True))
        ),
        f"{key} weights": Fingerprint(place, weights_digest(paths)),
    }


def identity_of_teachers(teacher: NamedTeacher | None) -> Identity:
    """Fingerprints of all teachers.

    Raises:
        ModelError: the files of one are not there any more.
    """
    found: Identity = {}
    if teacher is not None:
        for key, one in teacher.by_key.items():
            found |= identity_of_model(f"{key}.model", one.model, one.revision)
    return found


def identity_of_tokenizer(tokenizer: Any) -> Identity:
    """Fingerprint of what a tokenizer makes of text."""
    place = str(tokenizer.name_or_path)
    return {"tokenizer": Fingerprint(place, tokenizer_fingerprint(tokenizer))}


def identity_of_store(store: TokenStore) -> Identity:
    """Fingerprint of a token store's sequences, in their order; not of where text and store lie.

    Of a store that was made before stores had digests, the counts alone are known.
    """
    manifest, place = store.manifest, str(store.folder)
    counts = [
        manifest.tokenizer_fingerprint,
        manifest.vocab_size,
        manifest.max_length,
        manifest.shards,
        manifest.token_counts,
    ]
    if manifest.teacher is not None:
        counts.append(manifest.teacher.model_dump(exclude={"tokenizer_model"}))
    found = {"data.store counts": Fingerprint(place, text_digest(to_json(counts)))}
    if manifest.digests is not None:
        content = text_digest(to_json(manifest.digests))
        found["data.store content"] = Fingerprint(place, content)
    return found


# Kept and compared


def to_tree(identity: Identity) -> dict[str, Any]:
    """For JSON: what it is, then where and the digest."""
    return {what: {"place": one.place, "digest": one.digest} for what, one in identity.items()}


def from_tree(tree: Any) -> Identity:
    """What `to_tree` gave.

    Raises:
        ValueError: it is something else.
    """
    try:
        return {
            str(what): Fingerprint(str(one["place"]), str(one["digest"]))
            for what, one in tree.items()
        }
    except (AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"no fingerprints ({error})") from error


def changed(before: Identity, now: Identity) -> list[str]:
    """What differs, each with where it is now; what only one side knows of is not compared."""
    return [
        f"{what} ({now[what].place})"
        for what in sorted(now)
        if what in before and before[what].digest != now[what].digest
    ]
