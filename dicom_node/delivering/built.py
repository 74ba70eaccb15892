"""An object as it was built: its bytes, and what the outbox needs to know of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from dicom_node.store.outbox import MadeObject
from dicom_node.store.spool import Spool
from dicom_node.store.tables import ObjectKind


@dataclass(frozen=True)
class Built:
    """An encoded object, not yet stored."""

    kind: ObjectKind
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    content: bytes

    def stored_in(self, spool: Spool) -> MadeObject:
        """Store it on disk, durably; returns what the outbox needs to know about it. Raises StoreFull."""
        return MadeObject(
            kind=self.kind,
            sop_class_uid=self.sop_class_uid,
            sop_instance_uid=self.sop_instance_uid,
            series_uid=self.series_uid,
            file=spool.keep(self.content),
            size=len(self.content),
            sha256=hashlib.sha256(self.content).hexdigest(),
        )
