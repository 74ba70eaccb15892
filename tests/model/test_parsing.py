"""A slice that is read past pydicom is the slice that pydicom reads."""

from __future__ import annotations

import random
import struct
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import encoded
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from test_ct import made as ct_image
from test_ct import written

from dtvit.ct import CTObject, UnreadableSlice
from dtvit.reading import parsing, stepping

ODD = [
    "",
    " ",
    "1",
    "-1 ",
    "1\\2",
    "1\\2\\3",
    "1\\0\\0\\0\\1\\0",
    "nan",
    "1e400",
    "HU",
    "OD",
    "MONOCHROME1",
    "9" * 20,
    "x\0y",
]
SYNTAXES = [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian]


def outcome(data: bytes) -> Any:
    """All of the slice, or the words in which it is refused."""
    try:
        found = CTObject(data).slice(0)
    except UnreadableSlice as exc:
        return str(exc)
    values = (getattr(found, field.name) for field in fields(found))
    return [value.tobytes() if isinstance(value, np.ndarray) else repr(value) for value in values]


def by_pydicom(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Any:
    def unusual(*_: Any, **__: Any) -> None:
        raise stepping.Unusual

    with monkeypatch.context() as patch:
        patch.setattr(stepping, "find", unusual)
        return outcome(data)


def odd(rng: random.Random, syntax: str, changes: int) -> bytes:
    """A file in which some values are of another VR, odd or missing, and a few bytes are not what they were."""
    ds = ct_image(np.full((64, 96), 1064, np.int16), syntax, RescaleType="HU", PatientName="Doe^Jane")
    ds.add_new(0x00280120, "SS", -2000)  # Pixel Padding Value
    ds.AnatomicRegionSequence = [Dataset()]
    ds.AnatomicRegionSequence[0].CodeValue = "T-A0100"
    ds["AnatomicRegionSequence"].is_undefined_length = rng.random() < 0.5
    for keyword in rng.sample(parsing._OF_ONE_FRAME, rng.randrange(3)):
        ds.pop(keyword, None)
        if rng.random() < 0.7:
            ds.add_new(tag_for_keyword(keyword), rng.choice(("LO", "CS", "UI", "SH", "UT")), rng.choice(ODD))
    whole = written(ct_image(syntax=syntax))
    data = bytearray(whole[: 144 + whole[140]] + encoded(ds, syntax))
    for _ in range(rng.randrange(changes)):
        at = rng.randrange(128, len(data) - 2 * 64 * 96)
        data[at] = rng.choice((0, 255, rng.randrange(256)))
    return bytes(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_whatever_is_odd_or_broken_both_ways_say_the_same(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what is broken where nobody looks, as in a sequence that is not asked for: that ends pydicom alone."""
    rng, past_it, alike = random.Random(5), 0, 0
    for _ in range(400):
        data = odd(rng, syntax, changes=3)
        past_it += parsing.one_plain_frame(data) is not None
        mine, theirs = outcome(data), by_pydicom(data, monkeypatch)
        alike += mine == theirs
        assert mine == theirs or "cannot be parsed" in theirs
    assert past_it > 100
    assert alike > 390


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_plain_slice_is_read_without_pydicom(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing.pydicom, "dcmread", None)
    assert CTObject(written(ct_image(syntax=syntax))).slice(0).hu[0, 0] == 40


def test_nothing_is_asked_of_a_plain_slice_that_was_stepped_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be taken for absent."""
    asked: set[str] = set()

    class Asked(Dataset):
        def get(self, key: Any, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

        def __getattr__(self, name: str) -> Any:
            asked.add(name)
            return super().__getattr__(name)

    monkeypatch.setattr(parsing, "Dataset", Asked)
    assert isinstance(outcome(written(ct_image(PixelPaddingRangeLimit=-1900, PixelPaddingValue=-2000))), list)
    keywords = {name for name in asked if isinstance(name, str) and tag_for_keyword(name) is not None}
    assert len(keywords) > 15
    assert keywords - {"PixelData"} <= {*parsing._OF_ONE_FRAME}


def test_every_real_slice_is_the_same_both_ways(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((shared_data / "head-ct").rglob("*.dcm"))[::3]
    assert files
    for file in files:
        data = file.read_bytes()
        assert outcome(data) == by_pydicom(data, monkeypatch)


def test_only_pixel_data_itself_is_taken_for_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not Float Pixel Data, which ends a header too."""
    data = written(ct_image())
    at = data.index(b"\xe0\x7f\x10\x00")
    floats = data[:at] + struct.pack("<HH", 0x7FE0, 0x0008) + b"OF" + data[at + 6 :]
    assert parsing.one_plain_frame(floats) is None
    assert outcome(floats) == by_pydicom(floats, monkeypatch) == "the object holds no pixels"


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("change", [b"\xfc\xff\xfc\xff" + b"OB\0\0" * 3, b"\0\0", -2])
def test_pixel_data_that_does_not_end_the_object_is_pydicoms(
    syntax: str, change: bytes | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data Set Trailing Padding (PS3.10 7.2), a stray byte or two, or a transfer that broke off."""
    whole = written(ct_image(syntax=syntax))
    data = whole + change if isinstance(change, bytes) else whole[:change]
    assert parsing.one_plain_frame(data) is None
    assert outcome(data) == by_pydicom(data, monkeypatch)
