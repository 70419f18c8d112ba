"""The token store: text becomes `[CLS] ... [SEP]` sequences in memory-mapped Arrow files.

The reader cuts the text into shards; each shard is tokenised, split and written by itself, so a
killed run goes on where it stopped and the result does not depend on the number of processes.

    STORE/settings.json              what the store is made with; written first
    STORE/train/shard-00000.arrow    input_ids, one row for each sequence; held_out/ likewise;
                                     of a paired store also teacher_ids and teacher_places
    STORE/shards/shard-00000.json    what became of the shard; written after its Arrow files
    STORE/manifest.json              the whole store, token counts included; written last

    distilcli prepare --config configs/quickstart.yaml --num-proc 8
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distilcli.config.data import DataConfig
from distilcli.corpus.input_files import (
    changed_file,
    input_files,
    inputs_of,
    names_and_sizes,
    stamps_of,
    times,
)
from distilcli.corpus.manifest import SOURCE_KEYS, ShardRecord, SplitName, TeacherRecord, Totals
from distilcli.corpus.pairs import refuse_other_words
from distilcli.corpus.recipe import Recipe, make_recipe
from distilcli.corpus.shards import Shard, ShardWriter, cut_texts, read_record
from distilcli.corpus.store import TokenStore, is_whole, read_manifest
from distilcli.corpus.store_folder import (
    TEACHER_KEY,
    claim,
    discard,
    disk_errors,
    locked_store,
    remove_leavings,
    withdraw,
)
from distilcli.corpus.workers import on_one_core, start_worker, write_in_worker
from distilcli.errors import DataError, DistilError
from distilcli.files.atomic import recover_all, write_atomically
from distilcli.files.json_text import to_json
from distilcli.signals import kept_from_children
from distilcli.text.overlap import HeldOutTexts
from distilcli.text.sources import Reader, refuse_common
from distilcli.text.tokenizer_checks import unknown_share
from distilcli.text.tokenizers import text_backend, tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 1  # of the store; part of its settings, so a store of another format is refused
MIB = 2**20


@dataclass(frozen=True)
class Progress:
    """How far `prepare` is; counts are over finished shards.

    Attributes:
        bytes_read: of the input files as they lie on disk.
        total_bytes: of all input files; None when a hub data set is among the sources.
        skipped_shards: finished shards that an earlier run had made already.
    """

    documents: int
    sequences: int
    tokens: int
    shards: int
    skipped_shards: int
    bytes_read: int
    total_bytes: int | None


def is_prepared(
    data: DataConfig,
    tokenizer: "PreTrainedTokenizerFast",
    *,
    teacher_tokenizer: "PreTrainedTokenizerFast | None" = None,
    by_content: bool = True,
) -> bool:
    """Whether `data.store` is finished and whole, made with these settings and these tokenizers.

    The store's own files must be there in their sizes; `finished_store` reads them, too. Input
    files need not be there any more; if they are, they must be as they were, with `by_content` also
    where path and size are the same.
    """
    folder = Path(data.store)
    try:
        manifest = read_manifest(folder)
    except DataError:
        return False
    same = manifest.settings == _settings(data, tokenizer, teacher_tokenizer)
    if not same or not is_whole(folder, manifest):
        return False
    return changed_file(data, manifest, by_content=by_content) is None


def _settings(
    data: DataConfig,
    tokenizer: "PreTrainedTokenizerFast",
    teacher_tokenizer: "PreTrainedTokenizerFast | None",
) -> dict[str, Any]:
    """All that the content of a store depends on, as JSON gives it back."""
    settings = {
        "format": FORMAT,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        **data.model_dump(mode="json", exclude={"store"}),
    }
    if teacher_tokenizer is not None:
        settings[TEACHER_KEY] = tokenizer_fingerprint(teacher_tokenizer)
    return settings


def finished_store(
    data: DataConfig,
    tokenizer: "PreTrainedTokenizerFast",
    teacher_tokenizer: "PreTrainedTokenizerFast | None" = None,
) -> TokenStore | None:
    """The store of `data`, looked at byte by byte; None where something is left to prepare."""
    if not is_prepared(data, tokenizer, teacher_tokenizer=teacher_tokenizer):
        return None
    try:
        return TokenStore.open(Path(data.store), by_content=True)
    except DataError:
        return None


def prepare(
    data: DataConfig,
    tokenizer: "PreTrainedTokenizerFast",
    num_proc: int,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    teacher_tokenizer: "PreTrainedTokenizerFast | None" = None,
) -> TokenStore:
    """Make the token store that `data` describes, or finish what an earlier call began.

    Args:
        data: sources, lengths, and the folder of the store.
        tokenizer: of the student; without a `teacher_tokenizer` that of the teacher, too.
        num_proc: worker processes; 1: no other process. The result is the same for any number.
        on_progress: called whenever a shard is done.
        teacher_tokenizer: of the teacher of a student with a vocabulary of its own; its tokens are
            kept beside the student's (see `pairs.py`).

    Returns:
        The store, opened.

    Raises:
        ConfigError: a source does not say what its documents are.
        ModelError: the two tokenizers do not find the same words.
        DataError: a source cannot be read, there is no sequence in any, the folder holds a store
            made with other settings or something else.
        DistilError: a worker process died.
    """
    recover_all(Path(data.store))
    store = finished_store(data, tokenizer, teacher_tokenizer)
    if store is not None:
        return store
    preparation = _Preparation(data, tokenizer, teacher_tokenizer, on_progress)
    with disk_errors(preparation.folder), locked_store(preparation.folder):
        began = claim(
            preparation.folder,
            preparation.settings,
            preparation.model,
            preparation.changed_input(),
        )
        # Another process may have finished it meanwhile.
        store = finished_store(data, tokenizer, teacher_tokenizer)
        if store is None:
            try:
                preparation.run(num_proc)
                preparation.finish()
            except BaseException:  # a full disk and Ctrl-C too
                if began:
                    withdraw(preparation.folder)
                raise
            store = TokenStore.open(preparation.folder)
    return store


def _recipe(data: DataConfig, tokenizer: "PreTrainedTokenizerFast") -> Recipe:
    return make_recipe(
        to_json(text_backend(tokenizer)),
        (tokenizer.cls_token_id, tokenizer.sep_token_id),
        (data.max_length, data.min_length),
        data.held_out_fraction,
    )


def _vocab_size(tokenizer: "PreTrainedTokenizerFast") -> int:
    return max(tokenizer.get_vocab().values()) + 1


class _Preparation:
    """One call of `prepare`: what is to be made, and how far it is."""

    def __init__(
        self,
        data: DataConfig,
        tokenizer: "PreTrainedTokenizerFast",
        teacher_tokenizer: "PreTrainedTokenizerFast | None",
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.data = data
        self.folder = Path(data.store)
        refuse_common(*inputs_of(data), SOURCE_KEYS)
        self.files = input_files(data)  # first, so that a wrong path leaves no folder behind
        self.times = [times(file.path) for file in self.files]
        self.settings = _settings(data, tokenizer, teacher_tokenizer)
        self.model = str(tokenizer.name_or_path)
        self.recipe = _recipe(data, tokenizer)
        if teacher_tokenizer is not None:
            teacher = _recipe(data, teacher_tokenizer)
            models = self.model, str(teacher_tokenizer.name_or_path)
            refuse_other_words(self.recipe, teacher, models)
            self.recipe = dataclasses.replace(self.recipe, teacher=teacher)
        self.tokenizer, self.teacher_tokenizer = tokenizer, teacher_tokenizer
        self.held_out_texts = HeldOutTexts([])
        self.on_progress = on_progress
        self.progress = Progress(0, 0, 0, 0, 0, 0, None)
        self.num_shards = 0

    def changed_input(self) -> list[str]:
        """What is not as it was when the store was finished, in words; nothing if it is not."""
        try:
            manifest = read_manifest(self.folder)
        except DataError:
            return []  # unfinished: a shard whose text changed is made anew
        changed = changed_file(self.data, manifest)
        return [] if changed is None else [f"{changed} has changed since"]

    def run(self, num_proc: int) -> None:
        """Make every shard that is not there yet."""
        if num_proc <= 1:
            writer = ShardWriter(self.folder, self.recipe)
            with on_one_core():
                for shard in self._missing_shards():
                    self._report(shard, writer.write(shard))
            return
        # Spawned, not forked: tokenizers' and Arrow's threads do not survive a fork.
        context = get_context("spawn")
        setup = (self.folder, self.recipe)
        pool = ProcessPoolExecutor(num_proc, context, start_worker, setup)
        try:
            self._run_in_pool(pool, num_proc)
        except BrokenProcessPool as error:
            raise DistilError(
                "a worker process of prepare died, perhaps because memory ran out",
                "Run the command again with a smaller --num-proc; finished shards are kept.",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _run_in_pool(self, pool: ProcessPoolExecutor, num_proc: int) -> None:
        """Keep `num_proc` shards in work while the next is being filled."""
        pending: dict[Future[ShardRecord], Shard] = {}
        for shard in self._missing_shards():
            # Submitting starts the workers. They finish the shards they have after a Ctrl-C.
            with kept_from_children():
                future = pool.submit(write_in_worker, shard)
            # Kept without its text: that goes to the worker and need not stay here.
            pending[future] = dataclasses.replace(shard, texts=())
            while len(pending) >= num_proc:
                self._collect(pending)
        while pending:
            self._collect(pending)

    def _collect(self, pending: dict[Future[ShardRecord], Shard]) -> None:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            self._report(pending.pop(future), future.result())

    def _missing_shards(self) -> Iterator[Shard]:
        for shard in self._shards():
            record = read_record(self.folder, shard.index)
            if record is not None and record.digest == shard.digest:
                self._report(shard, record, skipped=1)
            else:
                yield shard

    def _shards(self) -> Iterator[Shard]:
        """Cut all text into shards, in order; only the one being filled is in memory."""
        data = self.data
        train, held_out = inputs_of(data)
        self.held_out_texts = HeldOutTexts(Reader(held_out).documents(held_out))
        reader = Reader([*train, *held_out])
        self.progress = dataclasses.replace(self.progress, total_bytes=reader.total_bytes)
        train_split: SplitName | None = None if data.held_out_sources is None else "train"
        parts: list[tuple[SplitName | None, Iterable[str]]] = [
            (train_split, self.held_out_texts.watched(reader.documents(train))),
            ("held_out", reader.documents(held_out)),
        ]
        for split, documents in parts:
            for texts, digest in cut_texts(documents, data.shard_mib * MIB, self._seed(split)):
                yield Shard(self.num_shards, texts, split, digest, reader.bytes_read)
                self.num_shards += 1

    def _seed(self, split: SplitName | None) -> bytes:
        """What a shard depends on besides its texts; not the sources they came from."""
        keys = ["format", "tokenizer", "max_length", "min_length", "held_out_fraction"]
        keys += [TEACHER_KEY] if TEACHER_KEY in self.settings else []
        return to_json([split, *(self.settings[key] for key in keys)]).encode()

    def _report(self, shard: Shard, record: ShardRecord, skipped: int = 0) -> None:
        before = self.progress
        splits = (record.train, record.held_out)
        self.progress = Progress(
            documents=before.documents + sum(split.documents for split in splits),
            sequences=before.sequences + sum(split.sequences for split in splits),
            tokens=before.tokens + sum(split.tokens for split in splits),
            shards=before.shards + 1,
            skipped_shards=before.skipped_shards + skipped,
            bytes_read=max(before.bytes_read, shard.bytes_read),
            total_bytes=before.total_bytes,
        )
        if self.on_progress is not None:
            self.on_progress(self.progress)

    def finish(self) -> None:
        """Add up the shards' records and write the manifest.

        Raises:
            DataError: there is no sequence to train on, or the same text is held out.
        """
        overlap = self.held_out_texts.overlap(SOURCE_KEYS, "documents")
        if overlap.are_same:  # with other held-out text it is another store
            discard(self.folder)
        overlap.refuse_same()
        totals = Totals(_vocab_size(self.tokenizer))
        for index in range(self.num_shards):
            record = read_record(self.folder, index)
            if record is None:
                raise DataError(f"{self.folder}: shard {index} is gone", "Run the command again.")
            totals.add(record)
        if not totals.has_train_sequences:
            raise DataError(
                f"{self.folder}: the sources hold no sequence to train on ("
                f"{totals.num_dropped('empty_document')} documents are empty, "
                f"{totals.num_dropped('short_remainder')} shorter than data.min_length)",
                "Look at data.sources, data.min_length and data.held_out_fraction.",
            )
        remove_leavings(self.folder, self.num_shards)
        stamps = stamps_of(self.files, self.times)
        manifest = totals.manifest(
            self.settings,
            self.model,
            names_and_sizes(self.files),
            stamps,
            unknown_share(totals.token_counts, self.tokenizer),
            overlap.shared,
            self._teacher_record(totals),
        )
        write_atomically(self.folder / "manifest.json", manifest.to_json())

    def _teacher_record(self, totals: Totals) -> TeacherRecord | None:
        teacher = self.teacher_tokenizer
        if teacher is None:
            return None
        fingerprint = self.settings[TEACHER_KEY]
        return totals.teacher(fingerprint, str(teacher.name_or_path), _vocab_size(teacher))
