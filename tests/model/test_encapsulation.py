"""Which fragments hold which frame, whatever an offset table says."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from dtvit.reading.encapsulation import MAX_FRAGMENTS, frames_of
from dtvit.reading.headervalues import UnreadableSlice

END = b"\xfe\xff\xdd\xe0\0\0\0\0"
FRAMES = [b"a" * 10, b"b" * 20, b"c" * 30]
ENDS = [frame + b"\xff\xd9" for frame in FRAMES]


def item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content


def encapsulated(fragments: Sequence[bytes], table: Sequence[int] = ()) -> bytes:
    return item(struct.pack(f"<{len(table)}L", *table)) + b"".join(map(item, fragments)) + END


@pytest.mark.parametrize("table", [(), (0, 18, 46), (0, 46, 18), (8, 26, 54), (0,), (7, 7, 7), (0, 18, 2**32 - 1)])
def test_a_fragment_for_each_frame_needs_no_offset_table(table: tuple[int, ...]) -> None:
    assert frames_of(encapsulated(FRAMES, table), 3) == FRAMES


@pytest.mark.parametrize("table", [(), (0,), (4,), (0, 18), (2**32 - 1,)])
def test_all_fragments_are_of_the_only_frame(table: tuple[int, ...]) -> None:
    assert frames_of(encapsulated(FRAMES, table), 1) == [b"".join(FRAMES)]


def test_frames_in_several_fragments_are_told_apart_by_the_table_or_by_their_ends() -> None:
    halves = [half for frame in FRAMES for half in (frame[:4], frame[4:])]
    assert frames_of(encapsulated(halves, (0, 26, 62)), 3) == FRAMES
    halves = [half for frame in ENDS for half in (frame[:4], frame[4:])]
    for table in ((), (0, 26, 64), (0, 27, 65), (0, 12, 24)):
        assert frames_of(encapsulated(halves, table), 3) == ENDS


@pytest.mark.parametrize(
    ("fragments", "frames"),
    [
        (FRAMES, 4),
        (FRAMES, 2),  # which of them are of one frame?
        ([ENDS[0], *FRAMES[1:], ENDS[2]], 3),  # counting on would show the third at the place of the second
    ],
)
def test_no_frame_is_guessed(fragments: Sequence[bytes], frames: int) -> None:
    with pytest.raises(UnreadableSlice, match="pieces"):
        frames_of(encapsulated(fragments), frames)


def test_what_is_cut_off_or_not_in_items_is_told() -> None:
    whole = encapsulated(FRAMES)
    assert frames_of(whole[: -len(END)], 3) == FRAMES
    assert frames_of(whole[: -len(END) - 5], 3) == [*FRAMES[:2], FRAMES[2][:-5]], "for the decoder to judge"
    for broken in (b"no item" * 10, item(b"") + b"none either"):
        with pytest.raises(UnreadableSlice, match="not in items"):
            frames_of(broken, 1)
    for empty in (END, item(b""), item(b"") + END, b""):
        with pytest.raises(UnreadableSlice, match="no pixels"):
            frames_of(empty, 1)


def test_a_million_empty_fragments_are_refused() -> None:
    assert len(frames_of(encapsulated([b"x"] * MAX_FRAGMENTS), MAX_FRAGMENTS)) == MAX_FRAGMENTS
    many = encapsulated([b""] * 1_000_000)
    with pytest.raises(UnreadableSlice, match="more than 100000 pieces"):
        frames_of(many, 2048)
