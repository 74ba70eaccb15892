"""The same head, told another way, gives the same answer; another head does not.

The ways are the fields of `ways.Telling`, drawn together at random. `python tests/listening.py` draws thousands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from listening import Account, differences, heard, refusal
from pydicom import uid
from retelling import told
from ways import ACROSS, PIXEL_MM, UNDECLARED_UTF_8, WAYS, Plane, Scan, Stored, Telling, head, scanned, tellings

from dicom_node.headers import header
from dicom_node.received import Received
from dtvit import ct, turning

few = settings(deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@settings(few, max_examples=12)
@given(st.booleans(), tellings())
@example(True, Telling(names=("ISO_IR 192", UNDECLARED_UTF_8, "GB18030", None)))
def test_the_node_says_the_same_of_a_head_however_it_is_told(whole: bool, way: Telling) -> None:
    assert differences(plainly(whole), heard(way, head() if whole else without_a_slice(head()))) == []


@cache
def plainly(whole: bool = True) -> Account:
    return heard(Telling(), head() if whole else without_a_slice(head()))


def without_a_slice(scan: Scan) -> Scan:
    return replace(scan, planes=(*scan.planes[:9], *scan.planes[10:]))


NO_HEAD = {
    "contrast": ({"agent": True}, "contrast agent given"),
    "bone": ({"kernel": "BONE"}, "not a soft-tissue kernel: BONE"),
    "thin": ({"thickness_mm": "0.2"}, "slices are 0.2 mm thick; eligibility allows 0.4 to 10 mm"),
    "thick": ({"thickness_mm": "15"}, "slices are 15 mm thick; eligibility allows 0.4 to 10 mm"),
    "coronal": ({"axes": (ACROSS, (0.0, 0.0, -1.0))}, "not axial: 90 degrees from the axial plane"),
    "chest": ({"body_part": "CHEST"}, "body part is CHEST"),
    "atomic numbers": ({"unit": "Z_EFF"}, "Rescale Type says Z_EFF: not Hounsfield units"),
    "projection": ({"kind": "MIP"}, "Image Type says MIP"),
}


@settings(few, max_examples=40)
@given(st.sampled_from(sorted(NO_HEAD)), tellings())
@example("contrast", Telling(parts=1, unknown=("ContrastBolusAgentSequence",)))
@example("thin", Telling(parts=1))
@example("thick", Telling(parts=2, per_frame=True))
@example("coronal", Telling(parts=1))
@example("coronal", Telling(parts=2, per_frame=True))
def test_what_is_no_plain_head_is_refused_for_the_same_reason(what: str, way: Telling) -> None:
    other, reason = NO_HEAD[what]
    assert refusal(told(replace(head(), planes=head().planes[:8], **other), way)) == reason


@settings(few, max_examples=80)
@given(tellings(), st.integers(0, 15))
@example(Telling(Stored(padding="US")), 5)
@example(Telling(Stored(12, unused="extended", rescales=((1.0, 0.0),))), 5)
def test_slices_come_out_as_they_went_in(way: Telling, lowest: int) -> None:
    """To the last Hounsfield unit and pixel."""
    scan = replace(head(), planes=head().planes[lowest : lowest + 3])
    found = [one for message in told(scan, replace(way, again=0, beside=())) for one in read(message)]
    found.sort(key=lambda one: one.position_mm or 0.0)
    for plane, one in zip(scan.planes, found, strict=True):
        hu, pixel_mm = turning.stood_up(one)
        assert (hu == plane.hu).all()
        assert pixel_mm == PIXEL_MM
        assert one.thickness_mm == 9.0
    assert np.diff([one.position_mm or 0.0 for one in found]) == pytest.approx(8.7327, abs=0.001)


def read(message: Received) -> list[ct.CTSlice]:
    """The slices of an object, of which its header must say the same."""
    found = list(ct.read(message.meta + bytes(message.data_set)))
    facts = header.read_facts(message.data_set, message.transfer_syntax_uid)
    assert facts.frames == len(found)
    for one in found:
        assert (facts.instance_number, facts.thickness_mm) == (one.instance_number, one.thickness_mm)
        if one.frame is None:
            assert facts.orientation == one.orientation
            assert facts.position_mm == pytest.approx(one.position_mm, abs=1e-6)
    return found


@pytest.mark.parametrize(
    "way",
    [
        Telling(Stored(12, signed=False, rescales=((1.0, -1024.0),)), uid.JPEGLSLossless, lies=(WAYS[5],), order=1),
        Telling(Stored(15, rescales=((2.0, 0.0), (1.0, 1000.0)), raised=1), uid.ExplicitVRBigEndian, parts=2, order=2),
    ],
    ids=["compressed, turned", "big endian, frames"],
)
def test_a_patient_is_told_in_other_ways(way: Telling, shared_data: Path) -> None:
    scan = scanned(shared_data / "head-ct" / "ge_hispeed_human_28")
    expected = heard(Telling(), scan)
    assert sum(one["region"] == "brain" for one in expected.slices) > 15
    assert differences(expected, heard(way, scan)) == []


def each(scan: Scan, change: Callable[[Plane], Plane]) -> Scan:
    return replace(scan, planes=tuple(map(change, scan.planes)))


ANOTHER: dict[str, Callable[[Scan], Scan]] = {
    "mirrored": lambda scan: each(scan, lambda plane: replace(plane, hu=plane.hu[:, ::-1])),
    "brighter": lambda scan: each(scan, lambda plane: replace(plane, hu=plane.hu + np.where(plane.hu > -500, 4, 0))),
    "on its head": lambda scan: each(scan, lambda plane: replace(plane, corner=-plane.corner)),
    "a slice missing": without_a_slice,
    "larger": lambda scan: replace(scan, pixel_mm=(2.0, 2.05)),
    "thinner": lambda scan: replace(scan, thickness_mm="5"),
}


@pytest.mark.parametrize("change", ANOTHER.values(), ids=ANOTHER)
def test_of_another_head_the_node_says_something_else(change: Callable[[Scan], Scan]) -> None:
    """Without which the tests above would prove nothing."""
    assert differences(plainly(), heard(Telling(), change(head()))) != []
