"""Numbers in a file, read where and when they are wanted.

A memory-mapped file that is cut short while it is used ends the process with SIGBUS, without a
word. A read that finds less than it asks for is an error that can be told. It costs 4 microseconds
a sequence more (a call and a copy), a thousandth of what training on it takes.
"""

import os
import resource
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from distilcli.errors import DataLostError


class FileValues:
    """Rows of numbers at a place in a file; `values[a:b]` reads some of them.

    Args:
        path: the file.
        file_bytes: its size, which it keeps.
        position: of the first row, in bytes.
        length: number of rows.
        dtype: of the numbers.
        row_shape: of a row.
        hint: what to do when it cannot be read any more.
    """

    def __init__(
        self,
        path: Path,
        file_bytes: int,
        position: int,
        length: int,
        dtype: Any,
        row_shape: tuple[int, ...],
        hint: str,
    ) -> None:
        self.path = path
        self._file_bytes = file_bytes
        self._position = position
        self._length = length
        self._dtype = np.dtype(dtype)
        self._row_shape = row_shape
        self._row_bytes = self._dtype.itemsize * int(np.prod(row_shape))
        self._hint = hint
        status = path.stat()
        # Another file under the same name, as `prepare` puts it there, is not this one.
        self._file = (path, status.st_ino, status.st_mtime_ns)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows `rows.start` up to `rows.stop`, which both must be given: read-only.

        Raises:
            DataLostError: the file is shorter than it was, gone, or cannot be read.
        """
        start, stop = int(rows.start), int(rows.stop)  # an int32 of NumPy would overflow below
        size = (stop - start) * self._row_bytes
        if not size:
            return np.empty((0, *self._row_shape), self._dtype)
        place = self._position + start * self._row_bytes
        try:
            data = os.pread(_descriptors.of(self._file, self._file_bytes), size, place)
        except OSError as error:
            raise self._lost(str(error)) from error
        if len(data) != size:
            raise self._lost(f"cut short: {len(data)} bytes instead of {size} at {place}")
        values = np.frombuffer(data, self._dtype)
        return values.reshape(-1, *self._row_shape) if self._row_shape else values

    def _lost(self, what: str) -> DataLostError:
        return DataLostError(f"{self.path}: {what}, while it was being read", self._hint)


class _Descriptors:
    """Open files, those used last; a big store has more files than a process may have open."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(16, min(4096, soft // 2 if soft > 0 else 4096))
        self._open: OrderedDict[tuple[Path, int, int], int] = OrderedDict()

    def of(self, file: tuple[Path, int, int], file_bytes: int) -> int:
        """A descriptor of a file (its path, and what tells it from another) of this size.

        Raises:
            OSError: it is not there, or has another size.
        """
        descriptor = self._open.get(file)
        if descriptor is not None:
            self._open.move_to_end(file)
            return descriptor
        descriptor = os.open(file[0], os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(descriptor).st_size
        if found != file_bytes:
            os.close(descriptor)
            raise OSError(f"{found} bytes instead of {file_bytes}")
        while len(self._open) >= self._most:
            os.close(self._open.popitem(last=False)[1])
        self._open[file] = descriptor
        return descriptor


_descriptors = _Descriptors()
