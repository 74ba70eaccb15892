"""What becomes of a request for an association, whatever the peer answers or does not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from made import CT, ct, encoded, part10, peer
from pydicom import uid
from pydicom.dataset import Dataset
from receiving import EXPLICIT

from dicom_node.errors import PeerError, PeerRefused, PeerUnreachable
from dicom_node.network import calling, scu, upperlayer

IMPLICIT, DEFLATED = str(uid.ImplicitVRLittleEndian), str(uid.DeflatedExplicitVRLittleEndian)


def file(ds: Dataset, folder: Path) -> scu.Outgoing:
    path = folder / "one.dcm"
    path.write_bytes(part10(ds))
    return scu.outgoing(path)


@contextmanager
def peer_that_says(*answers: bytes) -> Iterator[int]:
    """Its port. It waits for something before each answer, and for a last word of ours."""

    def speak() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            for answer in answers:
                connection.recv(65536)
                connection.sendall(answer)
            connection.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def acceptance(*items: bytes) -> bytes:
    """An A-ASSOCIATE-AC (PS3.8 9.3.3) of these presentation contexts and user items."""
    body = bytes([0, 1, 0, 0]) + b"PACS".ljust(16) + b"NODE".ljust(16) + bytes(32) + b"".join(items)
    return bytes([upperlayer.PduType.ASSOCIATE_AC, 0]) + len(body).to_bytes(4) + body


def accepted(context_id: int, syntax: str) -> bytes:
    return bytes([0x21, 0, 0, 8 + len(syntax), context_id, 0, 0, 0, 0x40, 0, 0, len(syntax)]) + syntax.encode()


def command(**elements: object) -> bytes:
    """A message without a data set in presentation context 1, as one P-DATA-TF (PS3.7 6.3.1, PS3.8 9.3.5)."""
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.CommandDataSetType = 0x0101
    text = encoded(ds, IMPLICIT)
    text = encoded(Dataset.from_json({"00000000": {"vr": "UL", "Value": [len(text)]}}), IMPLICIT) + text
    pdv = (len(text) + 2).to_bytes(4) + bytes([1, 3]) + text
    return bytes([upperlayer.PduType.P_DATA, 0]) + len(pdv).to_bytes(4) + pdv


LONGEST_PDU = bytes([0x50, 0, 0, 8, 0x51, 0, 0, 4, 0, 0, 0x40, 0])


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((1, 1, 7), PeerRefused, "Called AE title not recognised; see peers.ae_title"),
        ((1, 1, 3), PeerRefused, "Calling AE title not recognised; allow NODE there"),
        ((1, 2, 3), PeerRefused, "source 2, reason 3"),
        ((1, 9, 1), PeerRefused, "source 9, reason 1"),
        ((1, 1, 99), PeerRefused, "source 1, reason 99"),
        ((2, 0, 0), PeerUnreachable, "source 0, reason 0"),
        ((7, 3, 1), PeerUnreachable, "Temporary congestion"),
        ((2, 3, 2), PeerUnreachable, "Local limit exceeded; too many associations there, or a full disk"),
    ],
)
def test_a_rejection_is_told_at_once_whatever_numbers_it_has(
    answer: tuple[int, int, int], kind: type[PeerError], said: str
) -> None:
    begun = time.monotonic()
    with peer_that_says(upperlayer.rejection(*answer)) as port:
        with pytest.raises(kind, match=f"rejected the association: {said}"):
            scu.echo(peer(port, timeout_s=120.0), "NODE")
        assert time.monotonic() - begun < 60.0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (bytes([7, 0, 0, 0, 0, 4, 0, 0, 7, 9]), "aborted the association at once"),
        (acceptance(accepted(2, IMPLICIT), LONGEST_PDU), "in a form that PS3.8 9.3.3 does not allow"),
        (acceptance(accepted(1, IMPLICIT)), "in a form that PS3.8 9.3.3 does not allow"),
        (acceptance(accepted(1, DEFLATED), LONGEST_PDU), "in a form that PS3.8 9.3.3 does not allow"),
        (acceptance(accepted(1, ""), LONGEST_PDU), "in a form that PS3.8 9.3.3 does not allow"),
        (acceptance(accepted(1, IMPLICIT), LONGEST_PDU[:-2] + bytes([0, 5])), "in a form that PS3.8 9.3.3 does not"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is it a DICOM port"),
    ],
)
def test_an_answer_that_no_standard_knows_is_told_at_once_too(answer: bytes, said: str) -> None:
    begun = time.monotonic()
    with peer_that_says(answer) as port:
        with pytest.raises(PeerUnreachable, match=said):
            scu.echo(peer(port, timeout_s=120.0), "NODE")
        assert time.monotonic() - begun < 60.0


def test_a_pdu_of_four_gibibytes_is_not_waited_for() -> None:
    accepts = acceptance(accepted(1, IMPLICIT), LONGEST_PDU)
    begun = time.monotonic()
    with peer_that_says(accepts, bytes([upperlayer.PduType.P_DATA, 0]) + b"\xff" * 4 + bytes(1000)) as port:
        with pytest.raises(PeerUnreachable, match="did not answer"):
            scu.echo(peer(port, timeout_s=120.0), "NODE")
        assert time.monotonic() - begun < 60.0


@pytest.mark.parametrize("control", [0, 1], ids=["data set", "command set"])
def test_an_answer_without_end_ends_its_association(control: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "NO_OBJECT", 2**20)
    value = (60_000).to_bytes(4) + bytes([1, control]) + bytes(59_998)
    fragment = bytes([upperlayer.PduType.P_DATA, 0]) + len(value).to_bytes(4) + value
    begun = time.monotonic()
    with peer_that_says(acceptance(accepted(1, IMPLICIT), LONGEST_PDU), fragment * 40) as port:
        with pytest.raises(PeerUnreachable, match="did not answer"):
            scu.echo(peer(port, timeout_s=120.0), "NODE")
        assert time.monotonic() - begun < 60.0


@contextmanager
def peer_that_hangs(answer: bytes) -> Iterator[int]:
    """Its port. It says that and then neither reads nor writes, as a program that is stopped."""
    over = threading.Event()

    def speak() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)
            over.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak)
        thread.start()
        yield listener.getsockname()[1]
        over.set()
        thread.join(10)


def test_a_peer_that_hangs_in_the_middle_of_its_answer_is_given_up() -> None:
    begun = time.monotonic()
    with peer_that_hangs(acceptance(accepted(1, IMPLICIT), LONGEST_PDU)[:-3]) as port:
        with pytest.raises(PeerUnreachable):
            scu.echo(peer(port, timeout_s=1.0), "NODE")
        assert time.monotonic() - begun < 15.0


def test_a_peer_that_hangs_while_it_is_sent_something_large_is_given_up(tmp_path: Path) -> None:
    item = file(ct(1, PixelData=bytes(64 * 2**20)), tmp_path)  # more than both ends keep for each other
    begun = time.monotonic()
    with peer_that_hangs(acceptance(accepted(1, EXPLICIT), LONGEST_PDU)) as port:
        with pytest.raises(scu.AssociationBroken):
            list(scu.send(peer(port, timeout_s=1.0), "NODE", [item]))
        assert time.monotonic() - begun < 15.0


def test_an_answer_to_another_message_does_not_count_as_stored(tmp_path: Path) -> None:
    item = file(ct(1), tmp_path)
    response = command(AffectedSOPClassUID=CT, CommandField=0x8001, MessageIDBeingRespondedTo=99, Status=0x0000)
    with (
        peer_that_says(acceptance(accepted(1, EXPLICIT), LONGEST_PDU), response) as port,
        pytest.raises(scu.AssociationBroken, match="with another message number") as caught,
    ):
        list(scu.send(peer(port), "NODE", [item]))
    assert caught.value.item is item


def test_why_there_is_no_connection_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens; a port given back might be another test's by now
        with pytest.raises(PeerUnreachable, match="connection refused"):
            scu.echo(peer(taken.getsockname()[1]), "NODE")
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(PeerUnreachable, match=r"gave no answer within peers.timeout_s = 0.5"),
    ):
        scu.echo(peer(silent.getsockname()[1], timeout_s=0.5), "NODE")
