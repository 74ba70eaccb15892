"""Digests: the published value of BLAKE3, what a changed byte does, and what an earlier version noted."""

from __future__ import annotations

import base64
import hashlib

from dicom_node import digests

OF_ABC = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"  # as b3sum prints it


def test_a_digest_says_which_kind_it_is() -> None:
    noted = digests.of(b"abc")
    assert noted == "blake3-" + base64.b64encode(bytes.fromhex(OF_ABC)).decode()
    assert not digests.is_earlier(noted)


def test_it_is_the_same_however_the_bytes_come() -> None:
    piecewise = digests.Digest()
    for piece in (b"a", b"", bytearray(b"b"), memoryview(b"c")):
        piecewise.update(piece)
    assert digests.noted(piecewise) == digests.of(bytearray(b"abc")) == digests.of(memoryview(b"abc"))


def test_a_file_is_held_against_either_kind() -> None:
    for kept in (digests.of(b"abc"), hashlib.sha256(b"abc").hexdigest()):
        assert digests.is_of(b"abc", kept)
        assert not digests.is_of(b"abd", kept)
    assert digests.is_earlier(hashlib.sha256(b"abc").hexdigest())
