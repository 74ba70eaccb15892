"""Text of a data set as its sender meant it, in Unicode, whatever character set it is in (PS3.5 6.1, PS3.3 C.12.1.1.2).

pydicom decodes; what it decodes wrongly, or guesses, is put right here. Whoever reads text that may identify a patient
reads it here, so that everyone reads the same.
"""

from __future__ import annotations

import contextlib
import logging
import struct
from collections.abc import Sequence
from typing import Any

from pydicom.charset import default_encoding, python_encoding
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

logger = logging.getLogger(__name__)

UNREADABLE = (
    ValueError, TypeError, LookupError, AttributeError, OverflowError, NotImplementedError, OSError, EOFError,
    RecursionError, BytesLengthException, InvalidDicomError, struct.error,
)  # fmt: skip
"""What pydicom raises on reading an element whose bytes do not fit its VR or its character set; OSError and EOFError
come from a sequence that is cut short."""

for _term in ("ISO_IR 203", "ISO 2022 IR 203"):  # PS3.3 tables C.12-2 and C.12-3; pydicom 3.0 takes both for Latin-1
    python_encoding.setdefault(_term, "iso8859_15")
_ANNOUNCES_GB2312 = "\x1b$)A"  # ISO 2022 IR 58 (PS3.5 annex K); pydicom 3.0 leaves it in the text that it decodes
_WITH_GB2312 = frozenset({"iso_ir_58", "GBK", "GB18030"})

PLAIN = (str, int, float, PersonName)
"""What pydicom makes of a text or a number; an element may come under any VR, a sequence among them."""


def read_text(ds: Dataset, keyword: str) -> str | None:
    """The value as text, empty where it is; None where the element is absent, not decodable, or no text."""
    try:
        return None if keyword not in ds else text_of(ds[keyword].value, ds)
    except UNREADABLE:
        logger.warning("source attribute %s cannot be read and counts as absent", keyword)
        return None


def text_of(value: Any, ds: Dataset) -> str:
    """A value of `ds` that pydicom decoded, as text without padding, several joined by backslashes.

    Raises one of UNREADABLE where it is none.
    """
    each = value if isinstance(value, MultiValue | list | tuple) else ["" if value is None else value]
    return _as_meant("\\".join(map(_plain, each)), ds.original_character_set).strip(" \0")


def _plain(value: Any) -> str:
    if isinstance(value, bytes):  # of a VR that is not that of text
        return value.decode("ascii")
    if not isinstance(value, PLAIN):
        raise TypeError("neither text nor number")
    return str(value)


def _as_meant(text: str, character_sets: str | Sequence[str]) -> str:
    """Corrects what pydicom decodes wrongly, or guesses: with no character set that it knows, any byte is Latin-1.

    Bytes that are valid UTF-8 are hardly ever anything else, and many devices write UTF-8 without saying so. GB 2312
    under a character set that does not include it was decoded as something else: its escape sequence stays as the sign.
    """
    if _WITH_GB2312.intersection([character_sets] if isinstance(character_sets, str) else character_sets):
        text = text.replace(_ANNOUNCES_GB2312, "")
    if not text.isascii() and character_sets in (default_encoding, [default_encoding]):
        with contextlib.suppress(UnicodeError):
            return text.encode(default_encoding).decode("utf-8")
    return text


def as_read_before(text: str) -> set[str]:
    """This text as an earlier version read it where its bytes were undeclared UTF-8, or had GB 2312 announced in front.

    By digests of these it filed images. Of text in ASCII there was one reading.
    """
    if text.isascii():
        return set()
    first = next(at for at, letter in enumerate(text) if not letter.isascii())
    return {text.encode().decode(default_encoding), text[:first] + _ANNOUNCES_GB2312 + text[first:]}
