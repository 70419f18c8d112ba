"""Training embeddings, one kind of run: texts, a sentence encoder as teacher, and its student."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from distilcli.batches.groups import GroupedPlan
from distilcli.batches.plan import Draws, StepPlan
from distilcli.config.embedding import EmbeddingExperiment, PairFiles
from distilcli.config.training import TrainConfig
from distilcli.distillation.embedding_losses import EmbeddingDistillation
from distilcli.distillation.embedding_parts import (
    EmbeddingParts,
    assemble_embedding,
    open_texts,
    tell_of_texts,
    texts_table,
)
from distilcli.distillation.encoders import EncoderOutputs, PlacedEncoder
from distilcli.distillation.identity import Fingerprint, Identity, identity_of_tokenizer
from distilcli.distillation.objective import Objective
from distilcli.distillation.run_kind import Audience, Place, RunKind, experiment_tokenizer
from distilcli.distillation.task_rows import refuse_asked_of_text
from distilcli.distillation.tasks import identity_of_models
from distilcli.distillation.teachers import Teacher, run_once
from distilcli.errors import ConfigError, ModelError
from distilcli.evaluation.asked import TEACHER, Asked
from distilcli.evaluation.dev_examples import TaskScores
from distilcli.evaluation.embeddings import compare_encoders, encoder_scores
from distilcli.evaluation.result import Result
from distilcli.files.digests import text_digest
from distilcli.files.json_text import to_json
from distilcli.models.attention import use_packed_attention
from distilcli.models.checks import check_tokenizer
from distilcli.models.inside import shape_of
from distilcli.models.saving import save_model
from distilcli.models.sentence_encoders import (
    load_encoder,
    own_encoding,
    write_encoder_files,
)
from distilcli.tasks.grouped_texts import GroupedTexts, pack_groups


class EmbeddingObjective(Objective):
    """Trains a student to make the vectors that its teacher makes.

    A sample is a row: a text, a pair or a triple. With `teacher.cache` the teacher runs once over
    all texts, before the first step.

    Args:
        experiment: all settings.
        parts: texts, tokenizer, teacher and student; the student is trained in place.
        accelerator: of the run.
        on_note: told what the teacher is doing.
        cache: false: the teacher runs in every step, whatever the experiment says.
    """

    module: EmbeddingDistillation

    def __init__(
        self,
        experiment: EmbeddingExperiment,
        parts: EmbeddingParts,
        accelerator: Accelerator,
        on_note: Callable[[str], None] = lambda _: None,
        cache: bool = True,
    ) -> None:
        assert parts.teacher is not None, "an experiment on embeddings has a teacher"
        self.experiment = experiment
        self.data, self.encoding = parts.data, parts.encoding
        self.tokenizer = parts.tokenizer
        self.lengths = parts.data.row_lengths
        self.num_held_out = parts.data.num_measured
        self.unknown_share = parts.unknown_share
        self._teacher = parts.teacher
        # What no step can hold is refused before the teacher runs over all texts.
        self.step_plan(experiment.train, experiment.seed)
        self.module = EmbeddingDistillation(
            parts.student,
            self._make_teacher(accelerator, on_note, cache),
            parts.encoding,
            experiment.loss,
            experiment.seed,
        )

    def _make_teacher(
        self, accelerator: Accelerator, on_note: Callable[[str], None], cache: bool
    ) -> Teacher:
        folder = self.experiment.teacher.cache
        if folder is None or not cache:
            return PlacedEncoder(self._teacher, self.encoding)
        outputs = EncoderOutputs(Path(folder), self._teacher, self.data.train, self.encoding)
        tokens = self.experiment.train.tokens_per_micro_batch
        return run_once(self._teacher, outputs, accelerator, tokens, on_note)

    def step_plan(self, train: TrainConfig, seed: int) -> StepPlan:
        """Which groups of rows make each optimiser step.

        Raises:
            ConfigError: see `GroupedPlan`.
        """
        return GroupedPlan(
            self.lengths,
            train.global_batch_size,
            train.tokens_per_micro_batch,
            seed,
            train.num_epochs if train.ends_with_epochs else None,
            self.experiment.rows_per_group,
        )

    def pack(self, draws: Draws) -> GroupedTexts:
        """One micro-batch, with the teacher's vectors where they are cached."""
        texts = self.data.texts_of(draws.samples.tolist())
        known = self.module.teacher.cached_outputs(texts)
        size = self.experiment.rows_per_group * self.data.texts_per_row
        return pack_groups(self.data.train, texts, size, None if known is None else known[0])

    def held_out(self, accelerator: Accelerator) -> TaskScores:
        """Scores of the student's vectors as it is now."""
        return encoder_scores(
            self.data,
            self.student,
            self.encoding,
            accelerator,
            self.experiment.train.tokens_per_micro_batch,
            self.experiment.loss.similarities.matryoshka,
        )

    def save_student(self, folder: Path) -> None:
        """Write the student as it is now, as a folder of sentence-transformers.

        Raises:
            RunFolderError, ModelError, WriteError: see `save_model`.
        """
        width = shape_of(self.student).width

        def add_files(new: Path) -> None:
            write_encoder_files(new, self.encoding, width)

        save_model(self.student, self.tokenizer, folder, add_files=add_files)

    def check_teacher(self, accelerator: Accelerator) -> dict[str, float | None]:
        """Score of the teacher, and of vectors that are all the same.

        Raises:
            ModelError: the teacher's is no higher.
        """
        if not self.num_held_out:
            return {"teacher_score": None, "constant_score": None}
        teacher, source = self._teacher, self.experiment.teacher
        if (
            teacher.dtype != torch.float32
        ):  # as `eval` measures it, with weights that are not rounded
            teacher = load_encoder(source.model, source.revision, "teacher")
            use_packed_attention(teacher)
        found = encoder_scores(
            self.data,
            nn.Module.to(teacher, accelerator.device),
            self.encoding,
            accelerator,
            self.experiment.train.tokens_per_micro_batch,
            (),
            "the teacher",
        )
        score = found.values[self.data.score]
        if not score > 0.0:
            raise ModelError(
                f"teacher {source.model}: its {self.data.score}, {score:.3f}, is "
                "no better than the 0 of vectors that are all the same",
                "Check task.pooling, and that it was trained as a sentence encoder.",
            )
        return {"teacher_score": score, "constant_score": 0.0}


class EmbeddingRun(RunKind[EmbeddingExperiment, EmbeddingParts]):
    """Training embeddings on texts."""

    def prepare(self, num_proc: int, audience: Audience) -> Result:
        """Read every text, so that what is wrong is known before a run; nothing is written."""
        data, encoding, share = open_texts(self.experiment)
        return texts_table(data, encoding, share, f"texts of {self.experiment.name}")

    def assemble(
        self, device: torch.device, initial_student: Path, place: Place | None, audience: Audience
    ) -> EmbeddingParts:
        """Read the texts and load the models; see `assemble_embedding`."""
        if place is not None:
            place.take()
        parts = assemble_embedding(self.experiment, device)
        if place is not None:
            place.begin()
        return parts

    def assemble_unsaved(self, device: torch.device, *, by_content: bool) -> EmbeddingParts:
        """Read the texts and load the models; see `assemble_embedding`."""
        return assemble_embedding(self.experiment, device)

    def warn_about_data(self, parts: EmbeddingParts, audience: Audience) -> None:
        """Say how vectors are made, and what a user should know of the texts."""
        tell_of_texts(parts.data, parts.encoding, audience)

    def identity(self, parts: EmbeddingParts, initial_student: Path) -> Identity:
        """Teacher, what the student starts from, tokenizer, texts, and how vectors are made.

        The texts count as the models read them, so that files may move and be written otherwise.
        """
        task, data = self.experiment.task, parts.data
        found = identity_of_tokenizer(parts.tokenizer)
        trained = f"{data.texts_per_row} {data.train.content_digest()}"
        found["task.train texts"] = Fingerprint(task.train.place, text_digest(trained))
        measured = [source.place for source in (task.dev,) if source is not None]
        measured += [task.retrieval.queries.place] if task.retrieval is not None else []
        found["texts measured on"] = Fingerprint(", ".join(measured), data.digest_of_measured())
        made = to_json(asdict(parts.encoding), sort_keys=True)
        place = self.experiment.teacher.model
        found["how vectors are made"] = Fingerprint(place, text_digest(made))
        return found | identity_of_models(self.experiment)

    def objective(
        self,
        parts: EmbeddingParts,
        accelerator: Accelerator,
        on_note: Callable[[str], None],
        *,
        may_write: bool = True,
    ) -> EmbeddingObjective:
        """Texts, student, and teacher or its vectors, which may be kept on disk."""
        return EmbeddingObjective(self.experiment, parts, accelerator, on_note, cache=may_write)

    def check_asked(self, asked: Asked) -> None:
        """Refuse options that say nothing of vectors, and a measurement on nothing.

        Raises:
            ConfigError: naming the option.
        """
        refuse_asked_of_text(asked)
        if not asked.dev and not self.experiment.task.is_measured:
            raise ConfigError(
                "task.dev and task.retrieval are null: there is nothing to measure on",
                "Name pairs with a score: --dev FILE.",
            )

    def label(self, run: str, student: str) -> str:
        """The run alone for its trained student: no other is kept."""
        return run if student == "student" else f"{run} {student}"

    def compare(
        self, paths: dict[str, str], asked: Asked, accelerator: Accelerator, audience: Audience
    ) -> Result:
        """Scores of vectors on pairs and a retrieval test, agreement with the teacher, size, speed.

        Raises:
            ConfigError, DataError, ModelError: texts or models cannot be used.
        """
        experiment = with_other_pairs(self.experiment, asked.dev)
        data, encoding, _ = open_texts(experiment)
        tell_of_texts(data, encoding, audience)
        tokenizer, teacher = experiment_tokenizer(experiment), experiment.teacher
        models = {TEACHER: load_encoder(teacher.model, teacher.revision, "teacher")}
        models |= {label: load_encoder(path) for label, path in paths.items()}
        for label, model in models.items():
            check_tokenizer(model, tokenizer, label)
        own = {label: own_encoding(path, encoding) for label, path in paths.items()}
        return compare_encoders(
            models,
            {TEACHER: encoding} | own,
            {TEACHER: teacher.model} | paths,
            data,
            asked,
            experiment.train.tokens_per_micro_batch,
            accelerator,
            audience.note,
            experiment.loss.similarities.matryoshka,
        )


def with_other_pairs(experiment: EmbeddingExperiment, files: tuple[str, ...]) -> Any:
    """The experiment with other dev pairs, in columns of the same names; itself without files."""
    if not files:
        return experiment
    before = experiment.task.dev
    columns = {} if before is None else before.model_dump(include={"first", "second", "score"})
    pairs: dict[str, Any] = {"files": list(files), **columns}
    if isinstance(before, PairFiles) and Path(files[0]).suffix == Path(before.files[0]).suffix:
        pairs |= {"format": before.format, "columns": before.columns}
    task = experiment.task.model_copy(update={"dev": PairFiles(**pairs)})
    return experiment.model_copy(update={"task": task})
