"""From one C-STORE request to the status that answers it, whichever loop read the request."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dicom_node.logs import fields, trace
from dicom_node.received import Received, file_meta
from dicom_node.status import StoreStatus

log = logging.getLogger("dicom_node.scp")

Accept = Callable[[Received], StoreStatus]


def store(
    accept: Accept,
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    data_set: bytes,
    calling: str,
    association: int,
) -> StoreStatus:
    """What became of the object is `accept`'s word; a fault of ours is never answered as Success."""
    try:
        return StoreStatus(
            accept(
                Received(
                    sop_class_uid=sop_class_uid,
                    sop_instance_uid=sop_instance_uid,
                    transfer_syntax_uid=transfer_syntax_uid,
                    meta=file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid),
                    data_set=data_set,
                    calling_aet=calling,
                    association=association,
                )
            )
        )
    except Exception as exc:  # noqa: BLE001 - outermost line: the peer must get an answer, and it must not be Success
        log.error("store_failed %s", fields(association=association, error=trace(exc)))
        return StoreStatus.PROCESSING_FAILURE
