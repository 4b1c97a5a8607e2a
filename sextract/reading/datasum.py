"""FITS's DATASUM of an input's data unit, as provenance: read in chunks, summed by a kernel.

It writes no header; CHECKSUM of outputs is the catalogue's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sextract.reading._convert import ones_complement
from sextract.reading.source import ImageSource


def datasum(source: ImageSource, scratch: NDArray[np.uint8]) -> int:
    """Ones-complement sum of the data unit as stored (of the unpacked file, for ``.gz``).

    Parameters
    ----------
    source : ImageSource
    scratch : uint8 array
        At least 4 bytes; what it held is lost.

    Returns
    -------
    int
        As in a DATASUM card.  Missing padding counts as zeros.

    Raises
    ------
    InputError
        The file can't be read any more.

    References
    ----------
    FITS standard 4.0, appendix J.
    """
    size = source.info.data_size
    step = len(scratch) // 4 * 4
    total = 0
    for offset in range(0, size, step):
        n = min(step, size - offset)
        source.read_raw(offset, scratch[:n])
        padded = -(-n // 4) * 4
        scratch[n:padded] = 0
        total = ones_complement(scratch[:padded], total)
    return total
