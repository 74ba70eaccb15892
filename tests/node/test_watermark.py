"""Below the watermark of free disk, who wants to store is refused before data flows, and let in again by itself."""

from __future__ import annotations

from pathlib import Path

from pynetdicom import AE
from pynetdicom.association import Association

from dicom_node.config import Config, NodeSection
from dicom_node.network import scp, syntaxes
from dicom_node.store.spool import Spool

CT = "1.2.840.10008.5.1.4.1.1.2"
TRANSIENT, PROVIDER_PRESENTATION, LOCAL_LIMIT = 2, 3, 2  # PS3.8 9.3.4


def associate(port: int, abstract_syntax: str) -> Association:
    ae = AE("CT1")
    ae.add_requested_context(abstract_syntax)
    association = ae.associate("127.0.0.1", port, ae_title="NODE")
    if association.is_established:
        association.release()
    return association


def test_a_full_disk_turns_storage_away_for_now_and_nothing_else(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", min_free_mib=2**40)
    spool.prepare()
    config = Config(node=NodeSection(ae_title="NODE", allowed_senders=("CT1",)))
    rules = scp.rules_of(config, spool.has_room)
    receiver = scp.Receiver(lambda _: 0, rules, bind="127.0.0.1", port=0)  # type: ignore[arg-type, return-value]
    port = receiver.start()
    try:
        refused = associate(port, CT)
        assert refused.is_rejected
        answer = refused.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (
            *(TRANSIENT, PROVIDER_PRESENTATION),
            LOCAL_LIMIT,
        )
        assert associate(port, syntaxes.VERIFICATION).is_released
        spool.min_free_mib = 0
        assert associate(port, CT).is_released
    finally:
        receiver.stop()
