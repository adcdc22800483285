"""Arrays out of an npz archive that may come from anybody: nothing is unpickled, nothing larger than said is made."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rcnas_env.validation import shown

MOST_BYTES = 1 << 29
"""Of all arrays together; the largest table, of a million networks under ten attacks, has about 100 MB."""


def read_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of the npz archive `content`, by name.

    The declared sizes are checked before anything is decompressed: of the archive's parts together, and of each
    array's shape and type against its part.

    Raises:
        ValueError: it is no such archive, holds objects, is damaged, or declares more than MOST_BYTES.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = archive.infolist()
            if (total := sum(part.file_size for part in parts)) > MOST_BYTES:
                raise ValueError(f"its arrays must take at most {MOST_BYTES:,} bytes, got {total:,}")
            return {part.filename.removesuffix(".npy"): _read_array(archive, part) for part in parts}
    except ValueError as error:
        raise ValueError(str(error) or "it is damaged") from None
    except Exception as error:  # zipfile, zlib and numpy raise a dozen types for damaged files
        raise ValueError(f"it is no whole npz archive: {error or type(error).__name__}") from None


def _read_array(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> NDArray[Any]:
    if part.file_size > 0 and part.flag_bits & 1:
        raise ValueError(f"{part.filename[:80]} must not be encrypted")
    data = archive.read(part)  # of at most file_size bytes; its checksum is compared
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{part.filename[:80]} must be of npy format 1.0 or 2.0, got {shown(version)}")
    shape, _, kind = readers[version](file)
    if kind.hasobject:
        raise ValueError(f"{part.filename[:80]} must hold numbers, got objects")
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(data) - file.tell():
        raise ValueError(
            f"{part.filename[:80]} must hold {shape} values of {kind}, got {len(data) - file.tell():,} bytes"
        )
    file.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
