"""DIMSE status codes this node sends and reads, by name. Source: PS3.4 B.2.3, PS3.7 annex C."""

from __future__ import annotations

from enum import IntEnum


class StoreStatus(IntEnum):
    """Answers to C-STORE. Temporary trouble on our side is A7xx, so that the sender keeps its copy and tries again."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class CommitmentStatus(IntEnum):
    """Answers to N-ACTION and N-EVENT-REPORT of Storage Commitment (PS3.7 10.1.1, 10.1.4, annex C)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    INVALID_ARGUMENT = 0x0115
    NO_SUCH_SOP_CLASS = 0x0118
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORIZED = 0x0124
    RESOURCE_LIMITATION = 0x0213


class FailureReason(IntEnum):
    """Why we do not commit to an instance (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119


PENDING = frozenset({0xFF00, 0xFF01})
"""Matches are following (PS3.4 table C.4-1)."""


_MEANINGS = {
    StoreStatus.PROCESSING_FAILURE: "processing failure",
    StoreStatus.DUPLICATE_SOP_INSTANCE: "it already has an object with this UID",
    0x0117: "invalid SOP instance",
    StoreStatus.SOP_CLASS_NOT_SUPPORTED: "SOP class not supported",
    0x0124: "not authorized",
    0x0001: "not all of its optional attributes are supported",
    0x0107: "attribute list error",
    0x0116: "attribute value out of range",
    0xB000: "coercion of data elements",
    0xB006: "elements discarded",
    0xB007: "data set does not match SOP class",
}
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
_MEANINGS_OF_RANGES = {0xA7: "out of resources", 0xA9: "data set does not match SOP class"}


def in_words(status: int) -> str:
    """`A700 (out of resources)`: the number, and what the standard calls it."""
    said = _MEANINGS.get(status) or _MEANINGS_OF_RANGES.get(status >> 8)
    if said is None and status >> 12 == 0xC:
        said = "cannot understand"
    return f"{status:04X} ({said})" if said else f"{status:04X}"


def is_stored(status: int) -> bool:
    """Success or a warning."""
    return status == StoreStatus.SUCCESS or is_warning(status)


def is_warning(status: int) -> bool:
    """Stored, but not quite as sent: 0001, 0107, 0116, Bxxx (PS3.7 annex C; three of the last are in PS3.4 B.2.3)."""
    return status in _WARNINGS or status >> 12 == 0xB


def is_temporary(status: int) -> bool:
    """Whether the peer may take the same object later: out of resources (A7xx), or trouble inside the peer (0110)."""
    return status & 0xFF00 == 0xA700 or status == StoreStatus.PROCESSING_FAILURE
