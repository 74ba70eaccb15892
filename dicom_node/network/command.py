"""Command sets of the two services served here, C-STORE and C-ECHO. Source: PS3.7 6.3.1, 9.3.1, 9.3.5, E.1."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from dicom_node.network.upperlayer import BadPdu, PduType

COMMAND, LAST = 1, 2  # bits of a message control header: of a command set, its last fragment (PS3.8 E.2)
MAX_COMMAND = 64 * 1024  # bytes of a command set; a C-STORE request's has some 300

_NO_DATA_SET = 0x0101
_RESPONSE = 0x8000
_LONGEST_UID = 64


class Field(IntEnum):
    """(0000,0100) Command Field."""

    C_STORE = 0x0001
    C_ECHO = 0x0030
    C_CANCEL = 0x0FFF


class _Tag(IntEnum):
    """Elements of group 0000."""

    AFFECTED_SOP_CLASS_UID = 0x0002
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    COMMAND_DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    AFFECTED_SOP_INSTANCE_UID = 0x1000


@dataclass(frozen=True)
class Command:
    field: int
    message_id: int
    has_data_set: bool
    sop_class: bytes
    """As received, without padding; empty where there is none."""
    sop_instance: bytes


def parse(command_set: bytes | bytearray) -> Command:
    """Raises BadPdu where an element overruns the command set, or one that every request needs is missing."""
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(command_set):
        if at + 8 > len(command_set):
            raise BadPdu("a command set that ends within an element")
        group, tag, length = struct.unpack_from("<HHI", command_set, at)
        at += 8 + length
        if group != 0 or at > len(command_set):
            raise BadPdu("a command set with an element that does not belong in it")
        elements[tag] = bytes(command_set[at - length : at])
    return Command(
        field=_number(elements, _Tag.COMMAND_FIELD),
        message_id=_number(elements, _Tag.MESSAGE_ID, 0),
        has_data_set=_number(elements, _Tag.COMMAND_DATA_SET_TYPE) != _NO_DATA_SET,
        sop_class=_uid(elements, _Tag.AFFECTED_SOP_CLASS_UID),
        sop_instance=_uid(elements, _Tag.AFFECTED_SOP_INSTANCE_UID),
    )


def response(to: Command, context: int, status: int, longest: int) -> bytes:
    """The P-DATA that answers `to`, in fragments of at most `longest` bytes; 0 means unlimited."""
    elements = [
        _element(_Tag.AFFECTED_SOP_CLASS_UID, to.sop_class),
        _element(_Tag.COMMAND_FIELD, _us(to.field | _RESPONSE)),
        _element(_Tag.MESSAGE_ID_BEING_RESPONDED_TO, _us(to.message_id)),
        _element(_Tag.COMMAND_DATA_SET_TYPE, _us(_NO_DATA_SET)),
        _element(_Tag.STATUS, _us(status)),
    ]
    if to.sop_instance:
        elements.append(_element(_Tag.AFFECTED_SOP_INSTANCE_UID, to.sop_instance))
    inside = b"".join(elements)
    command_set = struct.pack("<HHII", 0, 0, 4, len(inside)) + inside
    step = max(1, longest - 6) if longest else len(command_set)  # 6: item header and message control header
    parts = [command_set[at : at + step] for at in range(0, len(command_set), step)]
    last = len(parts) - 1
    return b"".join(_pdu(part, context, COMMAND | LAST if n == last else COMMAND) for n, part in enumerate(parts))


def _pdu(fragment: bytes, context: int, control: int) -> bytes:
    """A P-DATA with one presentation data value (PS3.8 9.3.5)."""
    head = struct.pack(">BxIIBB", PduType.P_DATA, len(fragment) + 6, len(fragment) + 2, context, control)
    return head + fragment


def _number(elements: dict[int, bytes], tag: _Tag, default: int | None = None) -> int:
    value = elements.get(tag)
    if value is None and default is not None:
        return default
    if value is None or len(value) != 2:
        raise BadPdu(f"a command set without {tag.name}")
    return int.from_bytes(value, "little")


def _uid(elements: dict[int, bytes], tag: _Tag) -> bytes:
    value = elements.get(tag, b"").rstrip(b"\0 ")
    if len(value) > _LONGEST_UID:
        raise BadPdu(f"{tag.name} is longer than a UID can be")
    return value


def _element(tag: _Tag, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, tag, len(value)) + value


def _us(number: int) -> bytes:
    return number.to_bytes(2, "little")
