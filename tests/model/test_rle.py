"""Pillow's unpacking of RLE Lossless gives what pydicom's gives, or leaves the frame to it."""

import numpy as np
import pytest
from pydicom.pixels.decoders.rle import _rle_decode_frame
from pydicom.pixels.encoders.native import _encode_segment

from dtvit.reading import rle

ROWS, COLUMNS = 48, 80


def frame(values, *, count=2, padding=b""):
    halves = [_encode_segment(np.ascontiguousarray(values.view(np.uint8)[:, i::2]).tobytes(), COLUMNS) for i in (1, 0)]
    upper = halves[0] + padding
    return rle.HEADER.pack(count, 64, 64 + len(upper), *[0] * 13) + upper + halves[1]


@pytest.fixture(params=["noise", "flat", "steps"])
def values(request):
    random = np.random.default_rng(8)
    flat = np.full((ROWS, COLUMNS), 1024, "<u2")
    made = {"noise": random.integers(0, 4096, (ROWS, COLUMNS)), "flat": flat, "steps": flat + np.arange(ROWS)[:, None]}
    return made[request.param].astype("<u2")


@pytest.mark.parametrize("padding", [b"", b"\0", b"\x80\x80", b"\0\0"])
def test_a_frame_comes_out_as_it_went_in(values, padding):
    assert np.array_equal(rle.unpack(frame(values, padding=padding), ROWS, COLUMNS), values)


def test_a_run_may_cross_from_row_to_row():
    run = b"\x81\x07" * (ROWS * COLUMNS // 128)  # 128 times 7
    header = rle.HEADER.pack(2, 64, 64 + len(run), *[0] * 13)

    assert np.array_equal(rle.unpack(header + run + run, ROWS, COLUMNS), np.full((ROWS, COLUMNS), 0x0707))


@pytest.mark.parametrize(
    "broken",
    [b"", bytes(64), frame(np.zeros((ROWS, COLUMNS), "<u2"), count=3), frame(np.zeros((ROWS, COLUMNS), "<u2"))[:-9]],
)
def test_what_is_no_frame_of_two_segments_is_left_to_the_library(broken):
    assert rle.unpack(broken, ROWS, COLUMNS) is None


def test_whatever_bytes_are_changed_it_agrees_with_the_library_or_leaves_it():
    whole = frame(np.random.default_rng(2).integers(0, 40, (ROWS, COLUMNS)).astype("<u2") // 9)
    random = np.random.default_rng(3)
    given = 0
    for _ in range(400):
        broken = np.frombuffer(whole, np.uint8).copy()
        where = random.integers(64, len(whole), random.integers(1, 4))
        broken[where] = random.integers(0, 256, where.size)
        found = rle.unpack(broken.tobytes(), ROWS, COLUMNS)
        if found is not None:
            given += 1
            assert found.tobytes() == bytes(_rle_decode_frame(broken.tobytes(), ROWS, COLUMNS, 1, 16))
    assert 0 < given < 400
