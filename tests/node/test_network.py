"""The receiver and the sender's side of DIMSE against real peers on loopback ports."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from made import CT, Made, changed, ct, encoded, grey_series, part10, peer
from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from receiving import EXPLICIT, GRACE_S, associate, receiver, rejection

from dicom_node.errors import NodeError, PeerRefused, PeerUnreachable
from dicom_node.network import command, scu, syntaxes
from dicom_node.network.scp import Receiver
from dicom_node.network.stand_in import StandInPacs, free_port
from dicom_node.network.upperlayer import BadPdu
from dicom_node.received import Received
from dicom_node.status import StoreStatus
from dicom_node.store.tables import instances
from dicom_node.store.tables import series as series_table


def element(number: int, value: bytes, *, group: int = 0, length: int | None = None) -> bytes:
    """Of a command set (PS3.7 6.3.1)."""
    return struct.pack("<HHI", group, number, len(value) if length is None else length) + value


ECHO = element(0x0100, b"\x30\0") + element(0x0110, b"\7\0") + element(0x0800, b"\1\1")


@pytest.mark.parametrize(
    "broken",
    [
        ECHO[:-2],
        ECHO + ECHO[:7],
        ECHO + element(0x0002, b"1.2", length=4),
        ECHO + element(0x0010, b"Doe ", group=0x0010),
        ECHO[10:],
        ECHO + element(0x1000, b"1." + b"2" * 63),
    ],
    ids=["a short value", "a short element", "a length beyond the end", "another group", "no field", "no UID"],
)
def test_a_command_that_is_broken_ends_its_association_with_a_reason(broken: bytes) -> None:
    """Not with a fault of the receiver: the sender is told by an A-ABORT."""
    assert command.parse(ECHO) == command.Command(0x30, 7, has_data_set=False, sop_class=b"", sop_instance=b"")
    assert command.parse(ECHO + element(0x1000, b"1." + b"2" * 62)).sop_instance == b"1." + b"2" * 62
    with pytest.raises(BadPdu):
        command.parse(broken)


@pytest.fixture
def receive(node: Made) -> Iterator[Callable[..., int]]:
    """Starts a receiver; returns its port."""
    started: list[Receiver] = []

    def start(accept: Callable[[Received], StoreStatus] = node.acceptor.accept, **changed: object) -> int:
        started.append(receiver(accept, **changed))
        return started[-1].start()

    yield start
    for one in started:
        one.stop(GRACE_S)


def store_raw(association: Association, data_set: bytes, *, instance_uid: str, through: str = CT) -> int:
    """C-STORE of bytes as they are, past the library's own checks of what may be sent; the status that came back."""
    request = C_STORE()
    request.MessageID, request.AffectedSOPClassUID, request.Priority = 1, CT, 2
    request._affected_sop_instance_uid = uid.UID(instance_uid)
    request.DataSet = BytesIO(data_set)
    context = next(c for c in association.accepted_contexts if c.abstract_syntax == through)
    association._reactor_checkpoint.clear()  # as `send_c_store` does: the answer is for this thread
    while not association._is_paused:
        time.sleep(0.001)
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    assert answer is not None, "no answer to C-STORE"
    return int(answer.Status)


def send(port: int, ds: Dataset, **how: str) -> int:
    association = associate(port, **how)
    assert association.is_established
    try:
        return int(association.send_c_store(ds).Status)
    finally:
        association.release()


def file(ds: Dataset, folder: Path) -> scu.Outgoing:
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    path.write_bytes(part10(ds))
    return scu.outgoing(path)


def with_meta(ds: Dataset) -> Dataset:
    return pydicom.dcmread(BytesIO(part10(ds)))


@pytest.mark.usefixtures("either_loop")
def test_what_a_scanner_sends_is_kept_byte_for_byte(node: Made, receive: Callable[..., int], tmp_path: Path) -> None:
    item = file(ct(1), tmp_path)
    to = peer(receive(), ae_title="DICOM_NODE")
    assert [sent.status for sent in scu.send(to, "CT1", [item])] == [0]
    row = node.rows(instances)[0]
    kept = node.spool.read(row.file)
    assert kept.endswith(encoded(ct(1)))
    assert row.calling_aet == "CT1"
    assert pydicom.dcmread(BytesIO(kept)).file_meta.TransferSyntaxUID == EXPLICIT


@pytest.mark.usefixtures("either_loop")
def test_an_object_of_a_private_class_is_kept_like_any_other_that_is_no_ct(
    node: Made, receive: Callable[..., int], tmp_path: Path
) -> None:
    """A PACS that routes whole studies would send what is refused for ever; Siemens CSA Non-Image Storage here."""
    item = file(changed(ct(1), SOPClassUID="1.3.12.2.1107.5.9.1", PixelData=None), tmp_path)
    to = peer(receive(own_loop=True), ae_title="DICOM_NODE")
    assert [sent.status for sent in scu.send(to, "CT1", [item])] == [0]
    assert node.rows(instances)[0].ruled_out == "not a CT image (by its SOP class)"


@pytest.mark.usefixtures("either_loop")
def test_echo_is_answered(receive: Callable[..., int]) -> None:
    assert scu.echo(peer(receive(), ae_title="DICOM_NODE"), "CT1") < 5.0


@pytest.mark.parametrize(("calling", "called"), [("STRANGER", "DICOM_NODE"), ("CT1", "OTHER"), ("ct1", "DICOM_NODE")])
def test_a_caller_that_is_not_on_the_list_or_means_another_is_rejected(
    receive: Callable[..., int], calling: str, called: str
) -> None:
    answer = rejection(receive(), calling=calling, called=called)
    assert answer is not None
    assert answer[0] == 1  # for good


def test_an_empty_list_lets_nobody_in_and_a_star_everybody(receive: Callable[..., int]) -> None:
    assert rejection(receive(senders=frozenset())) == (1, 1, 3)
    assert send(receive(senders=frozenset({"*"})), with_meta(ct(1)), calling="WHOEVER") == 0


def test_a_title_that_would_steer_a_terminal_is_nobodys(receive: Callable[..., int]) -> None:
    assert rejection(receive(senders=frozenset({"*"})), calling="\x1b[2J") == (1, 1, 3)


@pytest.mark.usefixtures("either_loop")
def test_one_association_too_many_is_rejected_for_now(receive: Callable[..., int]) -> None:
    port = receive(max_associations=1)
    first = associate(port)
    assert first.is_established
    assert rejection(port) == (2, 3, 2)  # transient, local limit exceeded
    first.release()


@pytest.mark.usefixtures("either_loop")
def test_a_broken_object_gets_a_failure_and_the_association_lives_on(node: Made, receive: Callable[..., int]) -> None:
    association = associate(receive())
    instance = str(ct(1).SOPInstanceUID)
    for data_set in (b"\x00", encoded(ct(1))[:300], encoded(ct(2)), b"\xff" * 5000):
        assert store_raw(association, data_set, instance_uid=instance) in (0xA900, 0xC000)
    assert node.rows(instances) == []
    assert store_raw(association, encoded(ct(1)), instance_uid=instance) == 0
    association.release()
    assert len(node.rows(instances)) == 1


@pytest.mark.usefixtures("either_loop")
@pytest.mark.parametrize("hostile", ["../../x", "1.2\0.3", "1..2", "a b", "1.2.3;rm -rf"])
def test_a_hostile_uid_is_refused_as_the_senders_fault(node: Made, receive: Callable[..., int], hostile: str) -> None:
    association = associate(receive())
    ds = ct(1)
    ds["SOPInstanceUID"].value = hostile
    status = store_raw(association, encoded(ds), instance_uid=hostile)
    association.abort()
    assert status & 0xF000 in (0xC000, 0xA000)
    assert status & 0xFF00 != 0xA700  # nothing to be tried again
    assert node.rows(instances) == []
    assert node.files() == set()


@pytest.mark.usefixtures("either_loop")
def test_a_command_with_an_oversized_uid_ends_its_association_and_no_other(
    node: Made, receive: Callable[..., int]
) -> None:
    port = receive()
    association = associate(port)
    with pytest.raises(AssertionError, match="no answer"):
        store_raw(association, encoded(ct(1)), instance_uid="1." + "2" * 80)
    association.abort()
    assert node.rows(instances) == []
    assert send(port, with_meta(ct(1))) == 0


@pytest.mark.usefixtures("either_loop")
def test_nothing_is_stored_through_verification_which_is_all_a_stranger_has(
    node: Made, receive: Callable[..., int]
) -> None:
    association = associate(receive())
    status = store_raw(association, encoded(ct(1)), instance_uid=ct(1).SOPInstanceUID, through=syntaxes.VERIFICATION)
    association.release()
    assert status == StoreStatus.SOP_CLASS_NOT_SUPPORTED
    assert node.rows(instances) == []
    assert node.files() == set()


def test_deflated_is_not_accepted(receive: Callable[..., int]) -> None:
    association = associate(receive(), syntax=str(uid.DeflatedExplicitVRLittleEndian))
    assert [c.abstract_syntax for c in association.accepted_contexts] == [syntaxes.VERIFICATION]
    association.release()


@pytest.mark.usefixtures("either_loop")
def test_verification_too_is_taken_in_no_deflated_syntax_and_in_explicit_vr_before_implicit(
    receive: Callable[..., int],
) -> None:
    ae = AE("CT1")
    both = [str(uid.ImplicitVRLittleEndian), EXPLICIT]
    contexts = [build_context(syntaxes.VERIFICATION, [str(uid.DeflatedExplicitVRLittleEndian)])]
    contexts.append(build_context(syntaxes.VERIFICATION, both))
    association = ae.associate("127.0.0.1", receive(), contexts=contexts, ae_title="DICOM_NODE")
    assert [c.transfer_syntax for c in association.accepted_contexts] == [[EXPLICIT]]
    association.release()


@pytest.mark.usefixtures("either_loop")
def test_a_fault_of_our_own_is_never_answered_as_success(receive: Callable[..., int]) -> None:
    def breaks(_: Received) -> StoreStatus:
        raise KeyError("Doe^Jane")

    assert send(receive(breaks), with_meta(ct(1))) == StoreStatus.PROCESSING_FAILURE


@pytest.mark.usefixtures("either_loop")
def test_nothing_is_lost_of_many_associations_at_once(node: Made, receive: Callable[..., int], tmp_path: Path) -> None:
    to = peer(receive(), ae_title="DICOM_NODE")
    items = [file(ds, tmp_path) for ds in grey_series(16)]
    answers: list[scu.Sent] = []
    threads = [threading.Thread(target=lambda n=n: answers.extend(scu.send(to, "CT1", items[n::4]))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sent.status for sent in answers] == [0] * 16
    assert len(node.rows(instances)) == 16
    assert len(node.rows(series_table)) == 1


@pytest.mark.usefixtures("either_loop")
def test_a_sender_that_aborts_in_the_middle_has_what_was_acknowledged_kept(
    node: Made, receive: Callable[..., int]
) -> None:
    port = receive()
    association = associate(port)
    assert association.send_c_store(with_meta(ct(1))).Status == 0
    association.abort()
    assert len(node.rows(instances)) == 1
    assert send(port, with_meta(ct(2))) == 0


@pytest.mark.usefixtures("either_loop")
def test_whether_a_sender_is_still_connected_is_known(node: Made, receive: Callable[..., int]) -> None:
    listening = receiver(node.acceptor.accept, max_associations=2)
    assert not listening.has_open_association("CT1")
    association = associate(listening.start())
    association.send_c_echo()
    assert listening.has_open_association("CT1")
    assert not listening.has_open_association("CT2")
    association.release()
    listening.stop(GRACE_S)
    assert not listening.has_open_association("CT1")


def test_a_port_that_is_taken_is_an_error_that_names_it(receive: Callable[..., int]) -> None:
    port = receive()
    with pytest.raises(NodeError, match=f"port {port}"):
        receive(port=port)


def test_a_peer_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    nowhere = peer(free_port(), timeout_s=1.0)
    with pytest.raises(PeerUnreachable, match=r"PACS1 \(127.0.0.1"):
        scu.echo(nowhere, "NODE")
    with pytest.raises(PeerUnreachable):
        list(scu.send(nowhere, "NODE", [file(ct(1), tmp_path)]))
    with pytest.raises(PeerUnreachable):
        scu.echo(peer(104, host="no-such-host.invalid", timeout_s=1.0), "NODE")


def test_a_peer_that_does_not_know_us_is_refused_by_name(tmp_path: Path) -> None:
    there = StandInPacs(tmp_path)
    port = there.start()
    try:
        with pytest.raises(PeerRefused, match="rejected the association"):
            scu.echo(peer(port, ae_title="SOMEBODY"), "NODE")
    finally:
        there.stop()


def test_a_peer_that_leaves_in_the_middle_is_told_with_the_item_that_was_under_way(tmp_path: Path) -> None:
    stored: list[str] = []

    def store(event: evt.Event) -> int:
        if len(stored) == 1:
            event.assoc.abort()
        stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    ae = AE("PACS")
    ae.add_supported_context(CT, EXPLICIT)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    items = [file(ds, tmp_path) for ds in grey_series(3)]
    answered = []
    try:
        with pytest.raises(scu.AssociationBroken) as caught:
            answered.extend(scu.send(peer(server.server_address[1]), "NODE", items))
    finally:
        server.shutdown()
    assert caught.value.item is items[1]


def test_an_object_is_encoded_anew_only_where_the_peer_takes_no_other_syntax(tmp_path: Path) -> None:
    got: list[str] = []

    def store(event: evt.Event) -> int:
        got.append(str(event.context.transfer_syntax))
        return 0

    for syntax in (EXPLICIT, str(uid.ImplicitVRLittleEndian)):
        ae = AE("PACS")
        ae.add_supported_context(CT, syntax)
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
        try:
            sent = list(scu.send(peer(server.server_address[1]), "NODE", [file(ct(1), tmp_path)]))
        finally:
            server.shutdown()
        assert [s.status for s in sent] == [0]
    assert got == [EXPLICIT, str(uid.ImplicitVRLittleEndian)]


def test_more_kinds_of_object_than_one_association_can_name_are_sent_over_several() -> None:
    items = [
        scu.Outgoing(Path("x"), storage_class, f"1.2.{n}", EXPLICIT)
        for n, storage_class in enumerate(syntaxes.STORAGE_CLASSES)
    ]
    batches = list(scu._batches(items))
    assert [item for batch in batches for item in batch] == items
    assert all(len({pair for item in batch for pair in scu._contexts_for(item)}) <= 128 for batch in batches)
    assert len(batches) > 1


@pytest.mark.usefixtures("either_loop")
def test_peers_that_stall_do_not_hold_up_the_end(node: Made) -> None:
    """One says nothing, one begins an A-ASSOCIATE-RQ, one stops within a P-DATA: all keep their connection open."""
    listening = receiver(node.acceptor.accept, max_associations=8)
    port = listening.start()
    begins = {"nothing": b"", "half a PDU": b"\x01\x00\xff\xff\xff\xff" + b"a" * 100}
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in begins]
    for connection, begin in zip(connections, begins.values(), strict=True):
        connection.sendall(begin)
    association = associate(port)
    association.dul.socket.socket.sendall(b"\x04\x00\x00\x00\xff\xff" + b"a" * 100)
    begun = time.monotonic()
    listening.stop(GRACE_S)
    took_s = time.monotonic() - begun
    for connection in connections:
        connection.close()
    association.abort()
    assert took_s < 8.0
