"""Teachers, wherever they are: beside the student, in host memory, or in a cache of outputs.

A teacher is frozen, in eval mode and without gradients. `Distillation` and `TaskDistillation` ask
it for what losses compare, and do not know where that comes from.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from distilcli.batches.packing import PackedSequences
from distilcli.distillation.identity import TEACHER_OUTPUTS, Fingerprint, Identity
from distilcli.distillation.teacher_outputs import TeacherOutputs
from distilcli.files.atomic import recover_all
from distilcli.losses.projections import Projection
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.families import MaskedLM
from distilcli.models.inside import shape_of
from distilcli.models.padded_teacher import PaddedTeacher, TaskModel
from distilcli.models.placement import offload_layers
from distilcli.models.running import run_encoder, run_model, vocabulary_projection
from distilcli.tasks.inputs import TaskBatch

Known = tuple[np.ndarray, np.ndarray | None]


class Teacher(nn.Module, ABC):
    """What a student is compared with."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Of its hidden states."""

    def compilable(self) -> list[PreTrainedModel]:
        """The models whose layers `train.compile` compiles."""
        return []

    def cached_outputs(self, samples: Sequence[int]) -> Known | None:
        """Outputs and hidden states that the micro-batch of these samples brings; None: none."""
        return None

    def identity(self) -> Identity:
        """What training depends on besides the model: its outputs that are kept on disk."""
        return {}

    @abstractmethod
    def outputs(self, batch: TaskBatch) -> tuple[Tensor, Tensor | None]:
        """Outputs of a task, float [outputs, classes], and hidden states, [tokens, hidden]."""


class Ensemble(NamedTuple):
    """The teachers that the first one is averaged with.

    Attributes:
        others: they are or have been run as the first one is.
        shares: of all in the mean, that of the first one first; they add up to 1.
    """

    others: Sequence[Teacher]
    shares: tuple[float, ...]


ALONE = Ensemble((), (1.0,))


class ModelTeacher(Teacher):
    """A teacher that runs in every step.

    Args:
        ids: its id of each of the student's tokens, where the student has another vocabulary;
            None: both have the same.
    """

    def __init__(self, ids: Int[Tensor, " vocab"] | None = None) -> None:
        super().__init__()
        # No buffers: DDP would send them to all processes in every step.
        self._ids = ids
        self._kept: tuple[Tensor, Tensor] | None = None

    @property
    @abstractmethod
    def model(self) -> PreTrainedModel:
        """The model, frozen."""

    @property
    def width(self) -> int:
        """Of its hidden states."""
        return shape_of(self.model).width

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever the student does."""
        super().train(False)
        self.model.eval()
        return self

    @torch.no_grad()
    def hidden(self, batch: PackedSequences, packing: Packing) -> Float[Tensor, "tokens hidden"]:
        """Last hidden states."""
        return run_encoder(self.model, batch, packing)

    @torch.no_grad()
    def projection(self, hidden: Float[Tensor, "tokens hidden"]) -> Projection:
        """The masked-LM head, up to but without the product that makes logits of all `ids`."""
        projection = vocabulary_projection(self.model, hidden)
        if self._ids is None:
            return projection
        if self._kept is None or self._kept[0].device != hidden.device:
            of_ids = projection.of_rows(self._ids.to(hidden.device))
            self._kept = of_ids.weight, of_ids.bias  # the teacher is frozen: once is enough
        return Projection(projection.features, *self._kept)

    @torch.no_grad()
    def outputs(self, batch: TaskBatch) -> tuple[Tensor, Tensor | None]:
        """Outputs of a task and hidden states, computed."""
        return run_model(self.model, batch)


class PlacedTeacher(ModelTeacher):
    """A teacher beside the student, which moves with it.

    Args:
        model: frozen here, and switched to packed attention.
        ids: see `ModelTeacher`.
    """

    def __init__(self, model: PreTrainedModel, ids: Int[Tensor, " vocab"] | None = None) -> None:
        super().__init__(ids)
        self._model = _frozen(model)

    @property
    def model(self) -> PreTrainedModel:
        """The model, which is a part of this module."""
        return self._model

    def compilable(self) -> list[PreTrainedModel]:
        """The model."""
        return [self._model]


class OffloadedTeacher(ModelTeacher):
    """A teacher whose layers wait in host memory; see `placement.offload_layers`.

    Args:
        model: frozen here, and switched to packed attention.
        device: that it computes on.
        ids: see `ModelTeacher`.
    """

    def __init__(
        self, model: MaskedLM, device: torch.device, ids: Int[Tensor, " vocab"] | None = None
    ) -> None:
        super().__init__(ids)
        offload_layers(model, device)
        # Held in a tuple so that `.to()` and DDP do not see it.
        self._models = (_frozen(model),)

    @property
    def model(self) -> PreTrainedModel:
        """The model, which is no part of this module."""
        return self._models[0]


class CachedTeacher(Teacher):
    """A teacher that has run over all training inputs of a task already.

    Args:
        cache: its outputs.
        width: of its hidden states.
        other: which one it is of the teachers beside the first one; None: it is the first one.
    """

    def __init__(self, cache: TeacherOutputs, width: int, other: int | None = None) -> None:
        super().__init__()
        self.cache = cache
        self._width = width
        self._other = other

    @property
    def width(self) -> int:
        """Of its hidden states."""
        return self._width

    def cached_outputs(self, samples: Sequence[int]) -> Known:
        """Outputs and hidden states, read from disk."""
        return self.cache.of(samples)

    def identity(self) -> Identity:
        """The outputs on disk."""
        key = TEACHER_OUTPUTS
        if self._other is not None:
            key = f"{key} of teacher.others.{self._other}"
        return {key: Fingerprint(str(self.cache.folder), self.cache.content_digest())}

    def outputs(self, batch: TaskBatch) -> tuple[Tensor, Tensor | None]:
        """What the batch brings."""
        if self._other is not None:
            assert batch.other_outputs is not None
            return batch.other_outputs[self._other], None
        assert batch.teacher_outputs is not None
        return batch.teacher_outputs, batch.teacher_hidden


def run_once(
    model: TaskModel,
    outputs: TeacherOutputs,
    accelerator: Accelerator,
    tokens_per_micro_batch: int,
    on_note: Callable[[str], None],
    other: int | None = None,
) -> CachedTeacher:
    """Run a teacher over all its inputs, unless its outputs are on disk already.

    Args:
        model: the teacher, on the CPU, where it is left.
        outputs: where they are kept.
        accelerator: names device and processes; all of them must call this.
        tokens_per_micro_batch: of one forward pass.
        on_note: told what is computed.
        other: see `CachedTeacher`.
    """
    name = "the teacher" if other is None else f"teacher.others.{other}"
    is_complete = [accelerator.is_main_process and outputs.is_complete]
    broadcast_object_list(is_complete)  # another run may complete it between two looks
    if is_complete[0]:
        if accelerator.is_main_process:
            recover_all(outputs.folder)
        on_note(f"{name}'s outputs are in {outputs.folder}")
        return CachedTeacher(outputs, _width(model), other)
    on_note(f"{name} runs once over {len(outputs.inputs):,} inputs: {outputs.folder}")
    nn.Module.to(model.eval(), accelerator.device)
    start = time.perf_counter()
    outputs.compute(
        model,
        accelerator,
        tokens_per_micro_batch,
        lambda done, total: on_note(f"{name}: part {done} of {total}"),
    )
    model.cpu()
    if isinstance(model, PaddedTeacher) and model.num_cut:
        on_note(f"{name} takes {model.longest} tokens: {model.num_cut:,} longer texts were cut")
    on_note(f"that took {name} {time.perf_counter() - start:.1f} s")
    return CachedTeacher(outputs, _width(model), other)


def _width(model: TaskModel) -> int:
    return model.width if isinstance(model, PaddedTeacher) else shape_of(model).width


def _frozen(model: PreTrainedModel) -> PreTrainedModel:
    use_packed_attention(model)
    model.requires_grad_(False).eval()
    return model
