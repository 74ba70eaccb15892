"""UIDs: checking those received, deriving those made here.

A derived UID depends on nothing but its names: what follows from an object, as its form for another destination, bears
the same one whenever it is made. Form: PS3.5 B.2, `2.25.` and a UUID as a decimal number; the UUID is version 5
(RFC 9562, section 5.5).
"""

from __future__ import annotations

import re
import uuid

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_NAMESPACE = uuid.UUID("b5f6c2a4-3c53-4f0e-9d55-6d0a6f3f7e21")

IMPLEMENTATION_CLASS_UID = "2.25.241574892436487612396184906352198742561"
IMPLEMENTATION_VERSION_NAME = "DICOM_NODE_010"


def is_valid(uid: str) -> bool:
    """PS3.5 9.1, but allowing leading zeros in a component, which real devices write."""
    return len(uid) <= 64 and _UID.fullmatch(uid) is not None


def derived(*names: str) -> str:
    """The UID that these names always lead to; their order counts."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(names)).int}"


def fresh() -> str:
    return f"2.25.{uuid.uuid4().int}"
