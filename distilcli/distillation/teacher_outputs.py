"""A teacher's outputs for all training inputs, computed once and kept on disk.

They lie under a name made of fingerprints of all they depend on: the teacher's weights, what it is
shown (which is data, tokenizer and lengths), its precision. Whatever changes there is another
entry; an old one is never looked at. They are in parts of `PART` inputs, each whole or not there:
several processes share the work, and a kill costs one part.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedModel

from distilcli.batches.packing import by_length
from distilcli.errors import DataError, NonFiniteLossError, WriteError
from distilcli.files.atomic import recover_all, replacing
from distilcli.files.digests import text_digest
from distilcli.files.file_values import FileValues
from distilcli.files.json_text import to_json
from distilcli.models.attention import use_packed_attention
from distilcli.models.padded_teacher import TaskModel
from distilcli.models.running import run_model
from distilcli.tasks.inputs import Inputs, TaskBatch, pack_inputs

PART = 2048  # inputs
_OUTPUTS, _HIDDEN = "outputs", "hidden"
_MARK = "entry and digest"  # one key: safetensors writes several in any order
_KEY = re.compile("[0-9a-f]{32}")  # the name of an entry
_REMOVE_IT = "Remove it; it is made anew."
_DTYPES = {"F32": np.float32, "F16": np.float16}


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Hash of a model's configuration and of every weight; hexadecimal."""
    digest = blake2b(digest_size=16)
    config = {k: v for k, v in model.config.to_dict().items() if not k.startswith("_")}
    digest.update(to_json(config, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class TeacherOutputs:
    """Outputs of one teacher for the inputs of one split.

    Args:
        root: folder of all entries.
        teacher: whose outputs they are.
        inputs: what it is shown.
        with_hidden: whether last hidden states are kept too (in half precision).
    """

    def __init__(self, root: Path, teacher: TaskModel, inputs: Inputs, with_hidden: bool) -> None:
        self.inputs = inputs
        self.with_hidden = with_hidden
        parts = [*self.depends_on(teacher), str(with_hidden), str(PART)]
        self.key = blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()
        self.folder = root / self.key
        self._parts: dict[int, Mapping[str, np.ndarray | FileValues]] = {}

    def depends_on(self, teacher: Any) -> list[str]:
        """Fingerprints of what the outputs depend on."""
        return [weights_fingerprint(teacher), self.inputs.fingerprint(), str(teacher.dtype)]

    @property
    def num_parts(self) -> int:
        """Files that the outputs are kept in."""
        return -(-len(self.inputs) // PART)

    @property
    def is_complete(self) -> bool:
        """Whether all of them are there."""
        return all(self._path(part).exists() for part in range(self.num_parts))

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.safetensors"

    def remove_unusable(self) -> None:
        """Remove the parts that are damaged or of something else, so that they are made anew.

        Raises:
            OSError: one cannot be removed.
        """
        recover_all(self.folder)
        for part in range(self.num_parts):
            if self._path(part).exists():
                try:
                    self._part(part)
                except DataError:
                    self._path(part).unlink()

    def content_digest(self) -> str:
        """Digest of all outputs: of the marks of the parts, which hold theirs; hexadecimal.

        Raises:
            DataError: a part is damaged.
        """
        marks = []
        for part in range(self.num_parts):
            try:
                with safe_open(self._path(part), framework="np") as file:
                    marks.append((file.metadata() or {}).get(_MARK, ""))
            except (OSError, SafetensorError) as error:
                raise DataError(f"{self._path(part)}: damaged ({error})", _REMOVE_IT) from error
        return text_digest(" ".join(marks))

    def compute(
        self,
        teacher: TaskModel,
        accelerator: Accelerator,
        tokens_per_micro_batch: int,
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Compute the parts that are missing, this process its share of them.

        Args:
            teacher: in eval mode, on the device.
            accelerator: names device and processes; all of them must call this.
            tokens_per_micro_batch: of one forward pass.
            on_progress: told of parts done and of parts to do, of this process.

        Raises:
            WriteError: a part cannot be written.
        """
        if isinstance(teacher, PreTrainedModel):
            use_packed_attention(teacher)
        rank, world_size = accelerator.process_index, accelerator.num_processes
        # As the main process sees it: another run may be at work on the same parts. And a file
        # system that all share is asked once.
        seen: list[list[int]] = [[]]
        if rank == 0:
            parts = range(self.num_parts)
            seen = [[part for part in parts if not self._path(part).exists()]]
            recover_all(self.folder)
        broadcast_object_list(seen)
        accelerator.wait_for_everyone()  # all have looked before anyone writes
        mine = seen[0][rank::world_size]
        for done, part in enumerate(mine, start=1):
            tensors = self._compute_part(teacher, part, accelerator.device, tokens_per_micro_batch)
            self._write(part, tensors)
            on_progress(done, len(mine))
        accelerator.wait_for_everyone()

    @torch.no_grad()
    def _compute_part(
        self, teacher: TaskModel, part: int, device: torch.device, tokens: int
    ) -> dict[str, np.ndarray]:
        inputs = self.inputs
        samples = np.arange(part * PART, min(len(inputs), (part + 1) * PART))
        outputs: dict[int, np.ndarray] = {}
        hidden: dict[int, np.ndarray] = {}
        for group in by_length(samples, inputs.lengths, tokens):
            batch = pack_inputs(inputs, group).to(device)
            batch_outputs, batch_hidden = self.run(teacher, batch)
            self._check_finite(batch_outputs, batch_hidden, group)
            ends = np.cumsum(inputs.num_outputs_of[group])[:-1]
            outputs |= zip(group, np.split(batch_outputs.cpu().numpy(), ends), strict=True)
            if self.with_hidden:
                ends = np.cumsum(inputs.lengths[group])[:-1]
                halved = batch_hidden.half().cpu().numpy()
                hidden |= zip(group, np.split(halved, ends), strict=True)
        found = {_OUTPUTS: np.concatenate([outputs[sample] for sample in samples.tolist()])}
        if self.with_hidden:
            found[_HIDDEN] = np.concatenate([hidden[sample] for sample in samples.tolist()])
        return found

    def run(self, teacher: Any, batch: TaskBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs where they are read, in fp32, and last hidden states, of some inputs."""
        return run_model(teacher, batch)

    def _check_finite(self, outputs: torch.Tensor, hidden: torch.Tensor, group: list[int]) -> None:
        """Refuse outputs that would be kept, and trained on, by this run and every later one."""
        kept = [outputs, hidden.half()] if self.with_hidden else [outputs]
        if not all(bool(tensor.isfinite().all()) for tensor in kept):
            raise NonFiniteLossError(
                f"the teacher's outputs for training inputs {min(group)} to {max(group)} are not "
                "all finite: what it computes overflows; none of them is kept",
                "Set teacher.precision=fp32, or teacher.cache=null to find the input in a step.",
            )

    def _write(self, part: int, tensors: dict[str, np.ndarray]) -> None:
        path = self._path(part)
        try:
            with replacing(path) as new:
                save_file(tensors, new, metadata={_MARK: f"{self.key} {_digest(tensors)}"})
        except (OSError, SafetensorError) as error:
            raise WriteError(
                f"{path}: the teacher's outputs cannot be written ({error})",
                "Free disk space, name another folder in teacher.cache, or set it to null.",
            ) from error

    def of(self, samples: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Outputs of these inputs, end to end, and hidden states where they are kept.

        Raises:
            DataError: a part is damaged or of something else.
            DataLostError: a part was whole when it was first read, and is not any more.
        """
        outputs = [self._read(sample, _OUTPUTS, self.inputs.output_offsets) for sample in samples]
        hidden = None
        if self.with_hidden:
            rows = [self._read(sample, _HIDDEN, self.inputs.offsets) for sample in samples]
            hidden = np.concatenate(rows)
        return np.concatenate(outputs), hidden

    def _read(self, sample: int, name: str, offsets: np.ndarray) -> np.ndarray:
        part = sample // PART
        first = offsets[part * PART]
        begin, end = int(offsets[sample] - first), int(offsets[sample + 1] - first)
        return self._part(part)[name][begin:end]

    def _part(self, part: int) -> Mapping[str, np.ndarray | FileValues]:
        if part not in self._parts:
            path = self._path(part)
            try:
                with safe_open(path, framework="np") as file:
                    mark = (file.metadata() or {}).get(_MARK, "")
                    digest = _digest({name: file.get_tensor(name) for name in sorted(file.keys())})
                stored = _stored_values(path)
            except (OSError, SafetensorError, ValueError) as error:
                raise DataError(f"{path}: damaged ({error})", _REMOVE_IT) from error
            if not mark.startswith(self.key):
                raise DataError(f"{path}: made for something else", _REMOVE_IT)
            if mark != f"{self.key} {digest}":
                raise DataError(f"{path}: damaged (its digest differs)", _REMOVE_IT)
            self._parts[part] = stored
        return self._parts[part]


def _stored_values(path: Path) -> dict[str, FileValues]:
    """The tensors of a safetensors file, each to be read a few rows at a time.

    Not mapped: a file that is cut short while it is used must not end the process.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    found = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            length, *row_shape = tensor["shape"]
            place = 8 + size + tensor["data_offsets"][0]
            found[name] = FileValues(
                path,
                path.stat().st_size,
                place,
                length,
                _DTYPES[tensor["dtype"]],
                tuple(row_shape),
                f"{_REMOVE_IT} Then go on with --resume.",
            )
    return found


def remove_outputs(root: Path) -> None:
    """Remove all entries of a folder of teacher's outputs, and the folder if nothing else is in it.

    Raises:
        OSError: they cannot be removed.
    """
    for folder in root.iterdir() if root.is_dir() else ():
        if _KEY.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            recover_all(folder)
            for path in folder.glob("part-*.safetensors"):
                path.unlink()
            _remove_if_empty(folder)
    _remove_if_empty(root)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Hash of a part's tensors; hexadecimal."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
