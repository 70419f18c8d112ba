"""Digests that tell whether data are still what they were.

XXH3 (128 bits) hashes 30 GB/s on one core, sixteen times what SHA-256 does, so that reading sets
the pace: a file is read and hashed at 9 GB/s where it is in memory (10 GB: 1.2 s), else as fast as
its disk. It finds damage and mistakes; it is no protection against someone who forges data.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xxhash

_CHUNK = 1 << 22  # bytes: large enough that reading, not Python, takes the time


def file_digest(path: Path) -> str:
    """Digest of a file's bytes, read from beginning to end; hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = xxhash.xxh3_128()
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(memoryview(buffer)[:size])
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, which other tools can check; hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_digest(arrays: Iterable[np.ndarray]) -> str:
    """Digest of the values, types and shapes of some arrays; hexadecimal."""
    digest = xxhash.xxh3_128()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """Digest of a text; hexadecimal."""
    return xxhash.xxh3_128(text.encode("utf-8")).hexdigest()
