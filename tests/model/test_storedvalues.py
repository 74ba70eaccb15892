"""Bits and signs of stored values: mended where the pixels ask for it, and believed where they do not."""

from typing import Any

import numpy as np
import pytest

from dtvit.reading.storedvalues import as_stored, interpret


def twelve(values: list[int], kind: type[np.integer[Any]], *, high_bit: int = 11, shared: bool = False) -> list[int]:
    """`values` of 16 bits, as 12 that are stored."""
    found = interpret(
        np.array([values], kind),
        bits_stored=12,
        high_bit=high_bit,
        signed=kind is np.int16,
        shared_bits=shared,
    )
    return [int(value) for value in found[0]]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("kind", "values"), [(np.int16, [-2048, 0, 2047]), (np.uint16, [0, 2048, 4095])])
def test_values_in_their_range_stay(kind: type[np.integer[Any]], values: list[int], shared: bool) -> None:
    assert twelve(values, kind, shared=shared) == values


def test_a_sign_that_was_not_extended_is_where_nothing_speaks_against_it() -> None:
    assert twelve([0, 2047, 2048, 4095], np.int16) == [0, 2047, -2048, -1]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (np.int16, [-100, 40, 3000]),  # signs are extended, so this is metal
        (np.int16, [0, 40, 4096]),  # more than 12 bits hold, whatever their sign
        (np.int16, [-3000, 0, 40]),
        (np.uint16, [0, 40, 4096]),
    ],
)
def test_values_beyond_the_bits_that_are_announced_are_believed(kind: type[np.integer[Any]], values: list[int]) -> None:
    assert twelve(values, kind) == values


@pytest.mark.parametrize("bit", [12, 14, 15])
def test_bits_of_an_overlay_are_no_part_of_a_value(bit: int) -> None:
    for kind, values in ((np.int16, [-2048, -100, 0, 2047]), (np.uint16, [0, 40, 4095])):
        drawn = [value & 0x0FFF | 1 << bit for value in values]
        assert twelve(np.array(drawn, np.uint16).astype(kind).tolist(), kind, shared=True) == values


def test_values_in_the_upper_bits_are_brought_down_unless_high_bit_cannot_be() -> None:
    assert twelve([-700 * 16, 40 * 16], np.int16, high_bit=15) == [-700, 40]
    assert twelve([40 * 4, 4095 * 4], np.uint16, high_bit=13) == [40, 4095]
    for impossible in (3, 16, 40):
        assert twelve([0, 40, 2047], np.int16, high_bit=impossible) == [0, 40, 2047]


def test_all_bits_stored_leave_nothing_to_mend() -> None:
    values = np.array([[-32768, 32767]], np.int16)
    assert (interpret(values, bits_stored=16, high_bit=15, signed=True, shared_bits=True) == values).all()


def test_a_header_value_takes_the_sign_of_the_pixels() -> None:
    signed, unsigned = np.dtype(np.int16), np.dtype(np.uint16)
    assert [as_stored(v, signed) for v in (63536, 32768, 32767, 40, -2000)] == [-2000, -32768, 32767, 40, -2000]
    assert [as_stored(v, unsigned) for v in (-2000, -1, 0, 63536)] == [63536, 65535, 0, 63536]
