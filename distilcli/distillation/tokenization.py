"""Which tokens the models of masked-LM training read.

Mostly these are the same: those of the teacher's tokenizer. A student with a part of its teacher's
vocabulary reads its own tokens of the same text, from a store that holds the tokens of both. Which
part that is follows from how often each piece occurs in the text, which the store of the teacher's
own tokens has counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedTokenizerFast

from distilcli.config.data import DataConfig
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.models import CheckpointStudent
from distilcli.corpus.prepare import Progress, is_prepared, prepare
from distilcli.corpus.store import TokenStore
from distilcli.distillation.other_teachers import refuse_other_tokenizers
from distilcli.distillation.run_kind import experiment_tokenizer
from distilcli.errors import DataError, ModelError
from distilcli.files.atomic import recover_all
from distilcli.hub.model_files import short
from distilcli.models.loading import read_config
from distilcli.text.tokenizers import load_tokenizer, tokenizer_fingerprint
from distilcli.text.trimming import choose_pieces, trim_tokenizer
from distilcli.text.word_joints import word_joints


@dataclass(frozen=True)
class Tokenization:
    """Tokens of a text, and the store that they are in.

    Attributes:
        tokenizer: makes the tokens.
        data: sources, lengths, and the folder of the store.
        kept: where the student has a part of a vocabulary, the id in the whole vocabulary of each
            of its tokens, int64 [vocab].
        whole: what a model with the whole vocabulary reads, where the student has a part.
        is_paired: whether the store holds the tokens of `whole`, too, for a teacher.
    """

    tokenizer: PreTrainedTokenizerFast
    data: DataConfig
    kept: Int64[np.ndarray, " vocab"] | None = None
    whole: "Tokenization | None" = None
    is_paired: bool = False

    @property
    def teacher_tokenizer(self) -> PreTrainedTokenizerFast | None:
        """The tokenizer of a teacher that reads other tokens; None: there is no such teacher."""
        return self.whole.tokenizer if self.whole is not None and self.is_paired else None

    @property
    def teacher_ids(self) -> Int64[np.ndarray, " vocab"] | None:
        """That teacher's id of each of the student's tokens."""
        return self.kept if self.is_paired else None

    def is_prepared(self, *, by_content: bool = True) -> bool:
        """Whether the store is there, whole, and made with these settings and tokenizers."""
        teacher = self.teacher_tokenizer
        return is_prepared(
            self.data, self.tokenizer, teacher_tokenizer=teacher, by_content=by_content
        )

    def open_store(self, *, by_content: bool = True) -> TokenStore:
        """The finished store.

        Args:
            by_content: read every byte of it (`TokenStore.open`); one process of a run does.

        Raises:
            DataError: it is not there, not finished, or made with other tokenizers or settings.
        """
        store = TokenStore.open(Path(self.data.store), by_content=by_content)
        store.check_tokenizer(self.tokenizer)
        if self.teacher_tokenizer is not None:
            store.check_teacher_tokenizer(self.teacher_tokenizer)
        if not self.is_prepared(by_content=by_content):
            raise DataError(
                f"{self.data.store}: made with other data settings than this experiment's",
                "Name another data.store, or make the data section as it was.",
            )
        return store

    def prepare(
        self, num_proc: int, on_progress: Callable[[Progress], None] | None = None
    ) -> TokenStore:
        """The store, made where it is missing or unfinished; see `corpus.prepare.prepare`."""
        teacher = self.teacher_tokenizer
        return prepare(self.data, self.tokenizer, num_proc, on_progress, teacher_tokenizer=teacher)


def ensure_store(
    tokenization: Tokenization, num_proc: int, on_progress: Callable[[Progress], None] | None = None
) -> TokenStore:
    """The store of a tokenization, prepared first if it is missing or unfinished."""
    recover_all(Path(tokenization.data.store))
    if tokenization.is_prepared():
        return tokenization.open_store()
    return tokenization.prepare(num_proc, on_progress)


def tokenization_of(
    experiment: MaskedLMExperiment, make_store: Callable[[Tokenization], TokenStore] | None = None
) -> Tokenization:
    """Which tokens the student of an experiment reads.

    Args:
        experiment: all settings.
        make_store: makes the store of the whole vocabulary where the student has a part of it and
            that store is missing; None: that is an error.

    Raises:
        ConfigError: the vocabulary cannot be as small as it is asked to be.
        DataError: pieces have not been counted.
        ModelError: a tokenizer cannot be loaded or trimmed.
    """
    student = experiment.student
    if isinstance(student, CheckpointStudent):
        own = tokenization_of_student(experiment, student.model)
        if own.whole is not None and make_store is not None:
            make_store(own.whole)  # the teacher is measured on it
        return own
    whole = _whole_of(experiment)
    vocabulary = student.kept_vocabulary
    if vocabulary is None:
        return whole
    counts = _counted(whole) if make_store is None else make_store(whole).token_counts
    kept = choose_pieces(
        whole.tokenizer, counts, keep=vocabulary.keep, min_count=vocabulary.min_count
    )
    return _part(experiment, whole, trim_tokenizer(whole.tokenizer, kept), kept)


def _whole_of(experiment: MaskedLMExperiment) -> Tokenization:
    """The tokens of the experiment's tokenizer, with all of its vocabulary; ModelError."""
    tokenizer = experiment_tokenizer(experiment)
    refuse_other_tokenizers(experiment, tokenizer)
    if experiment.masking.whole_words:
        word_joints(tokenizer, len(tokenizer))  # refused now, not when the text is prepared
    return Tokenization(tokenizer, experiment.data)


def _counted(whole: Tokenization) -> Int64[np.ndarray, " vocab"]:
    try:
        return whole.open_store(by_content=False).token_counts
    except DataError as error:
        raise DataError(
            f"student.vocabulary: pieces are counted in the token store ({error.message})",
            "Run distilcli prepare with the experiment's --config first.",
        ) from error


def tokenization_of_student(experiment: MaskedLMExperiment, name: str) -> Tokenization:
    """Which tokens a saved student reads: its own, where it has fewer than its teacher.

    Args:
        experiment: whose teacher it has, or whose data it is measured on.
        name: folder or hub name of the student.

    Raises:
        ModelError: its tokens are others than those of the experiment, and no part of them.
    """
    whole = _whole_of(experiment)
    source, revision = experiment.tokenizer_source, None
    if experiment.teacher is not None:
        revision = experiment.teacher.revision
    num_whole = read_config(source, revision, "teacher").vocab_size
    if source == name:
        return whole
    if read_config(name, None, "student").vocab_size >= num_whole:
        refuse_other_tokens(f"student {name}", name, whole.tokenizer)
        return whole
    tokenizer = load_tokenizer(name)
    if tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(whole.tokenizer):
        return whole
    return _part(experiment, whole, tokenizer, _ids_in(whole.tokenizer, tokenizer))


def refuse_other_tokens(where: str, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse a model whose own tokenizer has other tokens: its rows would be taken for theirs.

    Args:
        where: names the model, and opens the message.
        name: its folder or hub name; one that lies there without a tokenizer is not refused.
        tokenizer: that it shall read texts with.

    Raises:
        ModelError: a token has another id, or is one that only one of them has.
    """
    try:
        own = load_tokenizer(name)
    except ModelError:
        return
    if own.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"{where}: its tokenizer has other tokens than that of {tokenizer.name_or_path}",
            "Use a model of the same vocabulary.",
        )


def _ids_in(
    whole: PreTrainedTokenizerFast, part: PreTrainedTokenizerFast
) -> Int64[np.ndarray, " vocab"]:
    """The id in the whole vocabulary of each token of a part of it; ModelError."""
    hint = (
        "Distillation compares logits token by token: use a student whose vocabulary is the "
        "teacher's or a part of it, such as distilcli init-student makes."
    )
    where = f"student {part.name_or_path}: its tokenizer is no part of that of {whole.name_or_path}"
    ids = whole.get_vocab()
    own = sorted(part.get_vocab().items(), key=lambda piece: piece[1])
    lacking = [piece for piece, _ in own if piece not in ids]
    if lacking:
        raise ModelError(f"{where} (which has no token {short(lacking[0])!r})", hint)
    if [index for _, index in own] != list(range(len(own))):
        raise ModelError(f"{where} (its ids are not 0 to {len(own) - 1})", hint)
    return np.array([ids[piece] for piece, _ in own])


def _part(
    experiment: MaskedLMExperiment,
    whole: Tokenization,
    tokenizer: PreTrainedTokenizerFast,
    kept: Int64[np.ndarray, " vocab"],
) -> Tokenization:
    """A tokenization of a part of the vocabulary: its store lies beside that of the whole."""
    digest = tokenizer_fingerprint(tokenizer)[:8]
    folder = f"{experiment.data.store}-{len(kept)}-{digest}"
    data = experiment.data.model_copy(update={"store": folder})
    return Tokenization(tokenizer, data, kept, whole, is_paired=experiment.teacher is not None)
