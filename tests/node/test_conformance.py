"""The conformance statement says what the code does, where that can be compared."""

from __future__ import annotations

import re
from pathlib import Path

from pydicom.datadict import dictionary_description, tag_for_keyword

from dicom_node import uids
from dicom_node.config import Config
from dicom_node.network import commitment, syntaxes, upperlayer
from dicom_node.report import carried, sr

STATEMENT = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")


def test_every_accepted_transfer_syntax_is_listed_and_no_other() -> None:
    listed = set(re.findall(r"\| (1\.2\.840\.10008\.1\.2(?:\.[0-9.]+)?) \|", STATEMENT))
    assert listed == {str(syntax) for syntax in syntaxes.ACCEPTED}


def test_classes_identifiers_and_limits_are_those_of_the_code() -> None:
    assert f"{len(syntaxes.STORAGE_CLASSES)} of them" in STATEMENT
    assert f"{upperlayer.MAX_PDU:,} bytes" in STATEMENT
    assert f"more than {commitment.LONGEST_REQUEST:,}" in STATEMENT
    named = [uids.IMPLEMENTATION_CLASS_UID, uids.IMPLEMENTATION_VERSION_NAME, commitment.SOP_CLASS]
    for identifier in (*named, commitment.SOP_INSTANCE, *map(str, sr.SR_CLASSES)):
        assert identifier in STATEMENT


def test_defaults_are_those_of_the_configuration() -> None:
    node = Config().node
    assert f"`node.max_associations` ({node.max_associations})" in STATEMENT
    assert f"`node.request_timeout_s` ({node.request_timeout_s:g} s)" in STATEMENT
    assert f"`retry_first_s` ({Config().results.retry_first_s:g} s)" in STATEMENT
    assert not Config().commitment.accept
    assert "off by default" in STATEMENT


def test_every_attribute_that_is_copied_is_named() -> None:
    for keyword in (*carried.TYPE_2, *carried.TYPE_3):
        tag = tag_for_keyword(keyword)
        assert tag is not None
        assert dictionary_description(tag) in STATEMENT
