"""Stored values as they are meant: bits beyond the stored ones, and signs that were not extended (PS3.5 8.1.1).

Pixel Representation, Bits Stored and High Bit are the header fields that are wrong most often; each correction here
states what in the pixels themselves calls for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def interpret(
    values: npt.NDArray[Any], *, bits_stored: int, high_bit: int, signed: bool, shared_bits: bool
) -> npt.NDArray[Any]:
    """Integers (row, column) of native pixels, with sign and range of the `bits_stored` bits that end at `high_bit`.

    `shared_bits`: the data set announces overlays in the unused bits, so these are certainly not part of a value.
    """
    allocated = values.dtype.itemsize * 8
    if bits_stored >= allocated:
        return values
    shift = high_bit + 1 - bits_stored
    if 0 < shift <= allocated - bits_stored:
        values = values >> shift
    low, high = (-(1 << bits_stored - 1), (1 << bits_stored - 1) - 1) if signed else (0, (1 << bits_stored) - 1)
    if low <= int(values.min()) and int(values.max()) <= high:
        return values
    # Outside the announced range. Bits used for overlays, or a sign bit that the writer did not extend (no negative
    # value anywhere, none beyond the unsigned range): cut to the stored bits. Else Bits Stored is too small a claim,
    # as with metal beyond 12 bits, and wrapping a bright value round to black would be worse than believing it.
    unextended = signed and int(values.min()) >= 0 and int(values.max()) < 1 << bits_stored
    if not (shared_bits or unextended):
        return values
    unused = allocated - bits_stored
    return (values << unused) >> unused


def as_stored(value: int, dtype: np.dtype[Any]) -> int:
    """A header value such as Pixel Padding Value in the sign of the pixels: its VR is often the other one."""
    bits = dtype.itemsize * 8
    if dtype.kind == "i" and value >= 1 << bits - 1:
        return value - (1 << bits)
    return value + (1 << bits) if dtype.kind == "u" and value < 0 else value
