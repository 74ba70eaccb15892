"""An association request, examined before anything is built from it. Source: PS3.8 9.3.2, PS3.7 annex D.3.3.

The lists in it are limited: each item becomes objects later, and 512 KiB hold a hundred thousand empty ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dicom_node.network.upperlayer import HEADER, BadPdu

MAX_CONTEXTS = 128  # context IDs are odd and below 256
MAX_TRANSFER_SYNTAXES = 100  # per context; the standard names some fifty
MAX_USER_ITEMS = 3 * 128 + 16  # roles and both kinds of extended negotiation for each context, and the single ones

_FIXED = HEADER + 68  # up to the variable items
_CONTEXT, _ABSTRACT_SYNTAX, _TRANSFER_SYNTAX, _USER_INFORMATION = 0x20, 0x30, 0x40, 0x50


@dataclass(frozen=True)
class Request:
    """What decides whether, and by whom, an association is served."""

    called: str
    calling: str
    abstract_syntaxes: frozenset[str]


def padded_with_spaces(pdu: bytes) -> bytes:
    """The A-ASSOCIATE-RQ with its AE titles padded with spaces: some devices use NUL, which the library refuses."""
    return pdu[:10] + pdu[10:42].replace(b"\0", b" ") + pdu[42:]


def parse(pdu: bytes) -> Request:
    """Raises BadPdu where the A-ASSOCIATE-RQ is not well-formed or its lists are longer than any real one's."""
    if len(pdu) < _FIXED:
        raise BadPdu("an association request that ends too early")
    abstract: list[str] = []
    users = 0
    for kind, value in _items(pdu[_FIXED:]):
        if kind == _CONTEXT:
            abstract.append(_proposed(value))
        elif kind == _USER_INFORMATION:
            users += sum(1 for _ in _items(value))
        if len(abstract) > MAX_CONTEXTS or users > MAX_USER_ITEMS:
            raise BadPdu("an association request with too many items")
    return Request(_title(pdu[10:26]), _title(pdu[26:42]), frozenset(abstract))


def _proposed(context: bytes) -> str:
    """Abstract syntax of one presentation context."""
    abstract, transfer_syntaxes = "", 0
    for kind, value in _items(context[4:]):
        if kind == _ABSTRACT_SYNTAX:
            abstract = value.rstrip(b"\0 ").decode("ascii", "replace")
        transfer_syntaxes += kind == _TRANSFER_SYNTAX
    if transfer_syntaxes > MAX_TRANSFER_SYNTAXES:
        raise BadPdu("a presentation context with too many transfer syntaxes")
    return abstract


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at + 2 : at + 4])
        if end > len(data):
            raise BadPdu("an association request with an item longer than the request")
        yield data[at], data[at + 4 : end]
        at = end


def _title(field: bytes) -> str:
    """PS3.8 9.3.2: leading and trailing spaces do not count."""
    return field.decode("ascii", "replace").strip(" \0")
