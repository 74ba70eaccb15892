"""Values of the elements that are asked for, by keyword; `dataset` finds them in a data set.

pydicom makes several objects for each value that is looked at; the node asks for thirty, in every image that arrives.
Plain ASCII values are read here. Anything else is left to pydicom.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from dicom_node.headers.texts import PLAIN, UNREADABLE, text_of
from dtvit.reading import stepping
from dtvit.reading.stepping import CHARACTER_SET, Unusual

_ITEM = b"\xfe\xff\x00\xe0"  # its tag, in little endian
LONGEST = 1 << 16
"""Bytes of a value that is looked at: no text in explicit VR is longer (PS3.5 7.1.2), and what the frames of an image
share takes a few thousand. Split into its values, a long one takes two hundred times its size."""
_SEQUENCES = ("SQ", "UN", None)
"""VRs of one, in implicit VR too. Who does not know a sequence passes it on as UN, its items in implicit VR (PS3.5
6.2.2)."""
_TEXTS = frozenset({"AS", "CS", "DA", "DT", "LO", "PN", "SH", "TM", "UI"})


class Elements:
    """Values by keyword. One that cannot be read counts as absent."""

    def __init__(
        self,
        raw: Mapping[int, RawDataElement],
        *,
        implicit: bool,
        wanted: frozenset[int],
        read: Dataset | None = None,
        longest: int = LONGEST,
    ) -> None:
        """`wanted`: the tags asked for, here and within sequences. `read`: the data set as pydicom read it, where it
        had to. `longest`: bytes of a value that it may be given here."""
        self._raw = raw
        self._implicit = implicit
        self._wanted = wanted
        self._read = read
        self._longest = longest

    def text(self, keyword: str) -> str | None:
        """Without padding; several values separated by backslashes; None if there is none."""
        plain = self._plain(keyword, _TEXTS)
        if plain is not None:
            return plain or None
        value = self._value(keyword)
        try:
            return None if value is None else text_of(value, self._dataset) or None
        except UNREADABLE:
            return None

    def number(self, keyword: str) -> float | None:
        plain = self._plain(keyword, {"DS"})
        number = _floats(plain) if plain is not None else None
        found = number[0] if number and len(number) == 1 else self._converted(keyword, float)
        return found if found is not None and math.isfinite(found) else None

    def integer(self, keyword: str) -> int | None:
        tag, usual = _tag(keyword)
        raw = self._raw.get(tag)
        plain = self._plain(keyword, {"IS"})
        number: int | None
        if plain and len(plain) <= 12 and plain.isdecimal():
            number = int(plain)
        elif raw is not None and (raw.VR or usual) == "US" and raw.length == 2:
            number = int.from_bytes(raw.value or b"", "little")
        else:
            number = self._converted(keyword, int)
        return number if number is not None and abs(number) < 2**31 else None

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Exactly `count` numbers, or None."""
        plain = self._plain(keyword, {"DS"})
        numbers = _floats(plain) if plain is not None else None
        if numbers is None:
            value = self._plain_value(keyword)
            try:
                numbers = tuple(float(v) for v in value) if value is not None else ()
            except (TypeError, ValueError):
                return None
        return numbers if len(numbers) == count else None

    def has_items(self, keyword: str) -> bool:
        """Whether this sequence exists and holds more than empty items."""
        raw = self._raw.get(_tag(keyword)[0])
        if raw is not None:
            begins = not raw.value or raw.value.startswith(_ITEM)  # under another VR it is something else
            return bool(raw.VR in _SEQUENCES and begins and raw.length > 16)  # start and end of an empty item
        read = self._read
        return read is not None and bool(_by_pydicom(lambda: _has_items(read, keyword, self._longest)))

    def within(self, *keywords: str) -> Elements | None:
        """The first item of this sequence, in it the first item of the next, and so on; None if any of them is
        missing."""
        first = next(iter(self.items(keywords[0], most=1)), None)
        return first.within(*keywords[1:]) if first is not None and len(keywords) > 1 else first

    def items(self, keyword: str, *, most: int) -> list[Elements]:
        """The first `most` items of this sequence; none where they cannot be read."""
        raw = self._raw.get(_tag(keyword)[0])
        if self._read is None and raw is None:
            return []
        if raw is not None and raw.VR in _SEQUENCES:
            implicit = self._implicit or raw.VR == "UN"
            with suppress(Unusual, struct.error):
                items = list(islice(stepping.items(raw.value or b"", implicit), most))
                return [self._within(item, implicit, self._longest // len(items)) for item in items]
        read = _by_pydicom(lambda: _items(self._dataset, keyword, self._longest)) or ()
        return [Elements({}, implicit=self._implicit, wanted=self._wanted, read=one) for one in read[:most]]

    def _within(self, item: bytes, implicit: bool, longest: int) -> Elements:
        """`longest`: its share, so that pydicom makes no more of thousands of items than of a single value. Raises
        Unusual, struct.error."""
        found = stepping.find(item, implicit, self._wanted)[0] if item else {}
        if CHARACTER_SET in self._raw:
            found.setdefault(CHARACTER_SET, self._raw[CHARACTER_SET])
        return Elements(found, implicit=implicit, wanted=self._wanted, longest=longest)

    def _plain(self, keyword: str, representations: Collection[str]) -> str | None:
        """The value, if it has such a VR and is printable ASCII; then no character set changes it."""
        tag, usual = _tag(keyword)
        raw = self._raw.get(tag)
        if raw is None or raw.value is None or raw.length > LONGEST or not raw.value.isascii():
            return None
        vr = raw.VR or usual
        text = raw.value.decode("ascii").strip(" \0")
        if vr not in representations or not text.isprintable() or (vr == "PN" and "=" in text):
            return None
        return None if "\\" in text and vr in ("LO", "PN", "SH") else text  # each of several has its own padding

    @cached_property
    def _dataset(self) -> Dataset:
        if self._read is not None:
            return self._read
        ds = Dataset({BaseTag(tag): raw for tag, raw in self._raw.items()})
        encodings = pydicom.charset.convert_encodings(ds.get("SpecificCharacterSet"))
        ds.set_original_encoding(self._implicit, True, encodings)
        return ds

    def _value(self, keyword: str) -> Any:
        """The element's value; None where it is absent or undecodable."""
        if self._read is None and _tag(keyword)[0] not in self._raw:
            return None
        return _by_pydicom(
            lambda: None if _is_long(self._dataset, keyword, self._longest) else self._dataset.get(keyword)
        )

    def _plain_value(self, keyword: str) -> Any:
        """The element's value; None where it is empty, too, or neither text nor number."""
        value = self._value(keyword)
        if isinstance(value, pydicom.multival.MultiValue | list | tuple):
            return value if all(isinstance(v, PLAIN) for v in value) else None
        return value if isinstance(value, PLAIN) and value != "" else None

    def _converted(self, keyword: str, convert: Callable[[Any], Any]) -> Any:
        value = self._plain_value(keyword)
        if isinstance(value, pydicom.multival.MultiValue) and len(value):
            value = value[0]
        try:
            return None if value is None else convert(value)
        except (TypeError, ValueError, OverflowError):
            return None


def _by_pydicom(look: Callable[[], Any]) -> Any:
    """What it finds; None where the bytes are broken, as each value is optional."""
    try:
        return look()
    except Exception:  # noqa: BLE001 - pydicom lets any exception of any VR's decoder through
        return None


def _has_items(ds: Dataset, keyword: str, longest: int) -> bool:
    if _is_long(ds, keyword, longest):
        return True
    items = ds.get(keyword)
    return isinstance(items, Sequence) and any(len(item) for item in items)


def _items(ds: Dataset, keyword: str, longest: int) -> Sequence | None:
    """The items of a sequence, unless it is larger than any that is asked for: nothing counts the elements within."""
    if keyword not in ds or _is_long(ds, keyword, longest):
        return None
    value = ds[keyword].value
    return value if isinstance(value, Sequence) else None


def _is_long(ds: Dataset, keyword: str, longest: int) -> bool:
    """Whether it is too long to look at, and not read yet."""
    held = ds.get_item(keyword) if keyword in ds else None
    return isinstance(held, RawDataElement) and len(held.value or b"") > longest


def _floats(text: str) -> tuple[float, ...] | None:
    try:
        return tuple(map(float, text.split("\\")))
    except ValueError:
        return None


@lru_cache
def _tag(keyword: str) -> tuple[int, str]:
    """The tag and its usual VR."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    return int(tag), str(pydicom.datadict.dictionary_VR(tag))


@lru_cache(maxsize=4)
def tags(keywords: frozenset[str]) -> frozenset[int]:
    """Those of these elements, and of what their texts are written in."""
    return frozenset(_tag(keyword)[0] for keyword in keywords) | {CHARACTER_SET}
