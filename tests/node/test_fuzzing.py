"""A short run of the fuzzer, and messages made by hypothesis; `make fuzz` runs tens of thousands."""

from __future__ import annotations

from pathlib import Path

import pytest
import receiving
from fuzzing import Kept, data_sets, responses, run
from hypothesis import given, settings
from hypothesis import strategies as st
from made import CT, ct, encoded, made_node
from receiving import associate, command, element, listening, p_data, request

from dicom_node import digests
from dicom_node.network import request as requests
from dicom_node.network.command import parse as parse_command
from dicom_node.network.memory import Memory
from dicom_node.network.own_loop import Loop
from dicom_node.network.upperlayer import BadPdu
from dicom_node.status import StoreStatus


@pytest.mark.parametrize(("own_loop", "count"), [(True, 300), (False, 60)], ids=["own", "pynetdicom"])
def test_broken_associations_end_and_nothing_is_promised_that_was_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_loop: bool, count: int
) -> None:
    monkeypatch.setattr(receiving, "OWN_LOOP", own_loop)
    kept = Kept(made_node(tmp_path))
    one = receiving.receiver(kept.accept, senders=frozenset({"*"}), max_associations=512, max_per_address=512)
    port = one.start()
    try:
        tally = run(one, port, kept, count=count, seed=4711)
    finally:
        one.stop(receiving.GRACE_S)
    assert tally.wrong == []
    assert tally.sessions == count
    assert len(tally.ended) >= 3  # releases and aborts among them: the mutations reach every depth
    assert tally.acknowledged > 0


def test_the_referee_sees_what_a_sender_sends() -> None:
    sent: list[bytes] = []
    with listening() as port:
        association = associate(port, sent=sent)
        ds = ct(1)
        ds.file_meta = receiving_meta()
        association.send_c_store(ds)
        association.release()
    assert data_sets(b"".join(sent)) == [encoded(ct(1))]


def receiving_meta() -> object:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


@given(st.binary(max_size=400))
def test_any_command_set_is_read_or_refused(data: bytes) -> None:
    try:
        got = parse_command(data)
    except BadPdu:
        return
    assert len(got.sop_class) <= 64
    assert len(got.sop_instance) <= 64


@given(st.binary(max_size=300))
def test_any_association_request_is_read_or_refused(tail: bytes) -> None:
    try:
        got = requests.parse(request()[:74] + tail)
    except BadPdu:
        return
    assert (got.called, got.calling) == ("DICOM_NODE", "CT1")


class _Wire:
    """A connection that gives what it was given, in pieces of a size, and remembers what was sent."""

    def __init__(self, stream: bytes, step: int) -> None:
        self._stream, self._step = stream, step
        self.sent = b""

    def recv_into(self, view: memoryview, _size: int = 0, _flags: int = 0) -> int:
        part, self._stream = self._stream[: min(self._step, len(view))], self._stream[min(self._step, len(view)) :]
        view[: len(part)] = part
        return len(part)

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def settimeout(self, _: float) -> None:
        pass

    def setsockopt(self, *_: int) -> None:
        pass


values = st.tuples(st.sampled_from((1, 1, 1, 3, 200)), st.sampled_from((0, 1, 2, 3, 3, 2, 255)), st.binary(max_size=60))
whole = st.builds(
    lambda number, data, message: p_data(
        (number, 3, command(1, element(0x1000, b"1.2.3"), message=message)), (number, 2, data)
    ),
    st.sampled_from((1, 3)),
    st.binary(max_size=200),
    st.integers(0, 65535),
)
others = st.one_of(
    st.builds(lambda *parts: p_data(*parts), values, values),
    st.builds(lambda: command(0x30, data_set=0x0101)).map(lambda c: p_data((1, 3, c))),
    st.binary(max_size=40),
    st.sampled_from((b"\x05\0\0\0\0\x04\0\0\0\0", b"\x07\0\0\0\0\x04\0\0\0\0", b"\x04\0\xff\xff\xff\xff")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(whole, whole, others), max_size=8), st.sampled_from((1, 7, 64, 10_000)))
def test_whatever_comes_success_is_said_once_for_each_object_kept(messages: list[bytes], step: int) -> None:
    """The loop of our own without a network, so that hypothesis can shrink what it finds."""
    kept: list[bytes] = []

    def store(_: str, __: str, syntax: str, data: bytearray, digest: str) -> StoreStatus:
        kept.append(bytes(data))
        assert digest == digests.of(data)
        return StoreStatus.SUCCESS

    stream = b"".join(messages)
    wire = _Wire(stream, step)
    memory = Memory(1 << 20)
    Loop(
        wire,  # type: ignore[arg-type]
        contexts={1: (CT, "1.2.840.10008.1.2"), 3: (CT, "1.2.840.10008.1.2.1")},
        longest=0,
        store=store,
        memory=memory,
        max_object=150,
        idle_s=1.0,
        complain=lambda _: None,
    ).run()
    answered = [status for _, status in responses(list(receiving.pdus(wire.sent)))]
    carried = data_sets(stream)
    assert answered.count(StoreStatus.SUCCESS) == len(kept)
    assert all(data in carried and len(data) <= 150 for data in kept)
    assert memory.lent == 0


def test_objects_come_out_whole_however_they_are_cut_up() -> None:
    data = bytes(range(256)) * 150
    parts = [data[at : at + 4000] for at in range(0, len(data), 4000)]
    message = [p_data((1, 3, command(1, element(0x1000, b"1.2.3"))))]
    message += [p_data((1, 2 if at == len(parts) - 1 else 0, part)) for at, part in enumerate(parts)]
    for step in (1, 13, 4096, 131072):
        kept: list[bytes] = []
        Loop(
            _Wire(b"".join(message * 2), step),  # type: ignore[arg-type]
            contexts={1: (CT, "1.2.840.10008.1.2")},
            longest=16384,
            store=lambda _, __, ___, got, ____, kept=kept: (kept.append(bytes(got)), StoreStatus.SUCCESS)[1],
            memory=Memory(1 << 24),
            max_object=1 << 20,
            idle_s=1.0,
            complain=lambda _: None,
        ).run()
        assert kept == [data, data]


@pytest.mark.parametrize("longest", [0, 7, 8, 100, 16384])
def test_an_answer_fits_what_the_peer_takes(longest: int) -> None:
    from dicom_node.network.command import Command, response

    pdus = list(receiving.pdus(response(Command(1, 7, True, CT.encode(), b"1.2.3"), 5, 0xA700, longest)))
    assert all(len(pdu) - 6 <= longest for pdu in pdus) or longest == 0
    whole = b"".join(pdu[12:] for pdu in pdus)
    joined = p_data((5, 3, whole))
    assert responses([joined]) == [(7, 0xA700)]
