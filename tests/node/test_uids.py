"""UIDs: what is accepted of others, and what is made here."""

from __future__ import annotations

import re

import pytest

from dicom_node import uids


@pytest.mark.parametrize("uid", ["1.2", "0.0", "1.2.840.10008.1.1", "2.25." + "9" * 39, "1." + "2" * 62, "1.02.3"])
def test_real_uids_are_valid(uid: str) -> None:
    assert uids.is_valid(uid)


@pytest.mark.parametrize(
    "uid",
    [
        *("", "1", "1.", ".1", "1..2", "1.2.", "a.b", "1.2.840.x", "1. 2", " 1.2", "1.2\n", "1.2\0", "-1.2"),
        *("1." + "2" * 63, "../../x", "1.2/../3", "1.\u0968", "1.\uff12"),
    ],
)
def test_nothing_else_is(uid: str) -> None:
    assert not uids.is_valid(uid)


def test_a_derived_uid_depends_on_its_names_their_order_and_their_borders_alone() -> None:
    assert uids.derived("a", "b") == uids.derived("a", "b")
    different = {uids.derived(*names) for names in (("a", "b"), ("b", "a"), ("ab",), ("a", "b", ""), ("a",))}
    assert len(different) == 5


def test_what_is_made_is_a_uid_from_a_uuid() -> None:
    for made in (uids.derived("x"), uids.fresh(), uids.IMPLEMENTATION_CLASS_UID):
        assert uids.is_valid(made)
        assert re.fullmatch(r"2\.25\.[1-9][0-9]{1,38}", made)
    assert uids.fresh() != uids.fresh()
    assert len(uids.IMPLEMENTATION_VERSION_NAME) <= 16
