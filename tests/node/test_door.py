"""Nothing hostile gets in, and nobody hostile keeps others out. Raw sockets; most break the library's defaults."""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import ssl
import time
from collections.abc import Iterator

import pytest
from fuzzing import responses
from made import CT, ct, encoded, peer
from pydantic import ValidationError
from pydicom import uid
from pynetdicom.transport import AssociationServer
from receiving import (
    ABORT,
    ACCEPT,
    EXPLICIT,
    GRACE_S,
    REJECT,
    USER,
    associate,
    context,
    exchange,
    item,
    listening,
    p_data,
    receiver,
    rejection,
    request,
    store_request,
)

from dicom_node.config import NodeSection
from dicom_node.errors import PeerError
from dicom_node.network import admission, command, library_loop, own_loop, scu, syntaxes, tally
from dicom_node.network.memory import NO_OBJECT
from dicom_node.received import Received
from dicom_node.status import StoreStatus

FOUR_GIB = 0xFFFFFFFF


@contextlib.contextmanager
def silent(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connections that never say anything."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]


def echo(port: int) -> float:
    return scu.echo(peer(port, ae_title="DICOM_NODE"), "CT1")


def still_open(connections: list[socket.socket]) -> list[socket.socket]:
    ended, _, _ = select.select(connections, [], [], 0)
    return [one for one in connections if one not in ended]


def is_closed(connection: socket.socket, timeout_s: float = 15.0) -> bool:
    connection.settimeout(timeout_s)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_hundred_silent_connections_shut_nobody_out() -> None:
    with listening(request_s=120.0) as port, silent(port, 100) as mute:
        assert echo(port) > 0
        assert associate(port).is_established
        assert len(still_open(mute)) >= admission.MAX_WAITING_PER_ADDRESS - 2  # they were not waited out


def test_a_silent_connection_is_ended() -> None:
    with listening(request_s=0.5) as port, silent(port, 5) as mute:
        assert all(is_closed(one) for one in mute)


def test_of_too_many_silent_connections_those_that_waited_longest_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_WAITING_PER_ADDRESS", 4)
    with listening(request_s=120.0) as port, silent(port, 10) as mute:
        assert all(is_closed(one) for one in mute[:6])
        assert echo(port) > 0


def test_those_who_wait_at_many_addresses_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a thread, and no address has more than its share."""
    monkeypatch.setattr(admission, "MAX_WAITING", 4)
    known = admission.Connections(admission.Rules("X", frozenset({"CT1"})))
    with contextlib.ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(7)]
        came = [known.arrived(ours, admission.address(f"192.0.2.{n}")) for n, (ours, _) in enumerate(pairs)]
        ended = [None if oldest is None else oldest.number for _, oldest in came]
        assert ended == [None] * 4 + [one.number for one, _ in came[:3]]
        assert all(is_closed(theirs) for _, theirs in pairs[:3])
        assert len(still_open([theirs for _, theirs in pairs[3:]])) == 4
        assert known.associate(came[-1][0], "CT1") is None  # who has an association waits no longer
        ours, _ = (stack.enter_context(end) for end in socket.socketpair())
        assert known.arrived(ours, admission.address("192.0.2.99"))[1] is None


def test_each_address_has_its_own_share_of_the_associations() -> None:
    known = admission.Connections(admission.Rules("X", frozenset({"CT1"}), max_associations=5, max_per_address=2))
    with contextlib.ExitStack() as stack:

        def associated(host: str, calling: str) -> bool:
            ours, _ = (stack.enter_context(end) for end in socket.socketpair())
            return known.associate(known.arrived(ours, admission.address(host))[0], calling) is None

        assert [associated("192.0.2.1", "CT1") for _ in range(3)] == [True, True, False]
        assert [associated("192.0.2.2", "CT1") for _ in range(3)] == [True, True, False]
        assert [associated("192.0.2.2", "STRANGER") for _ in range(3)] == [True, True, False]
        assert [associated(f"192.0.2.{n}", "CT1") for n in (3, 4)] == [True, False]


def test_a_request_that_does_not_come_to_its_end_is_not_waited_for() -> None:
    whole = request()
    with listening(request_s=0.5) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(whole[: len(whole) // 2])
        assert is_closed(slow)


@pytest.mark.parametrize("networks", [["192.0.2.0/24"], ["2001:db8::/32", "10.0.0.1"]])
def test_a_connection_from_an_address_that_is_not_allowed_is_closed_unheard(networks: list[str]) -> None:
    with listening(addresses=admission.networks(networks)) as port:
        assert exchange(port, request()) == []


def test_a_connection_from_an_allowed_network_is_served() -> None:
    with listening(addresses=admission.networks(["192.0.2.7", "127.0.0.0/8"])) as port:
        assert echo(port) > 0


def test_an_address_list_that_cannot_be_read_is_refused_at_the_start() -> None:
    for wrong in ("192.0.2.7/24", "scanner.example", "300.1.1.1"):
        with pytest.raises(ValidationError, match="must be an address or network"):
            NodeSection(allowed_addresses=(wrong,))


def test_where_file_handles_run_out_one_who_waits_makes_room_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept = AssociationServer.get_request

    def out_of_handles(server: AssociationServer) -> object:
        if still_open(mute):
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(server)

    with caplog.at_level(logging.WARNING), listening(request_s=120.0) as port, silent(port, 1) as mute:
        assert echo(port) > 0  # so the one before it has been let in
        monkeypatch.setattr(AssociationServer, "get_request", out_of_handles)
        assert echo(port) > 0
    assert any("no_more_connections" in record.getMessage() for record in caplog.records)


def test_an_ipv4_address_is_known_again_at_an_ipv6_socket() -> None:
    rules = admission.Rules("X", frozenset(), addresses=admission.networks(["192.0.2.0/24", "2001:db8::/32"]))
    assert rules.admits(admission.address("::ffff:192.0.2.9"))
    assert rules.admits(admission.address("2001:db8::1"))
    assert not rules.admits(admission.address("::ffff:198.51.100.1"))


def test_ipv6_is_listened_on() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python knows no IPv6")
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with listening(bind="::1", addresses=admission.networks(["::1"])) as port:
        assert scu.echo(peer(port, host="::1", ae_title="DICOM_NODE"), "CT1") > 0


@pytest.mark.usefixtures("either_loop")
def test_one_address_cannot_take_all_associations() -> None:
    with listening(max_associations=8, max_per_address=2) as port:
        held = [associate(port) for _ in range(2)]
        assert [one.is_established for one in held] == [True, True]
        assert rejection(port) == (2, 3, 2)  # transient, local limit exceeded
        held[0].release()
        assert associate(port).is_established


@pytest.mark.usefixtures("either_loop")
def test_as_many_associations_as_are_allowed_come_about() -> None:
    with listening(max_associations=12) as port:
        held = [associate(port) for _ in range(12)]
        assert [one.is_established for one in held] == [True] * 12
        assert rejection(port) is not None


@pytest.mark.usefixtures("either_loop")
def test_anyone_may_echo_where_that_is_chosen_and_nothing_else() -> None:
    verification = context(1, syntaxes.VERIFICATION, (str(uid.ImplicitVRLittleEndian),))
    with listening(echo_from_anyone=True) as port:
        assert scu.echo(peer(port, ae_title="DICOM_NODE"), "STRANGER") > 0
        assert rejection(port, verification, calling="STRANGER") is None
        assert rejection(port, verification, context(3), calling="STRANGER") == (1, 1, 3)  # storage too
    with listening() as port, pytest.raises(PeerError):
        scu.echo(peer(port, ae_title="DICOM_NODE"), "STRANGER")


@pytest.mark.usefixtures("either_loop")
def test_strangers_who_may_echo_take_no_association_from_a_sender() -> None:
    verification = context(1, syntaxes.VERIFICATION, (str(uid.ImplicitVRLittleEndian),))
    with listening(echo_from_anyone=True, max_associations=12, max_per_address=12) as port, silent(port, 20) as held:
        for one in held:
            one.sendall(request(verification, calling="STRANGER"))
        kinds = [one.recv(1)[0] for one in held]
        assert kinds.count(ACCEPT) == admission.MAX_STRANGERS
        assert kinds.count(REJECT) == 20 - admission.MAX_STRANGERS
        senders = [associate(port) for _ in range(12)]
        assert all(one.is_established for one in senders)


@pytest.mark.parametrize(
    "first",
    {
        "4 GiB of request": request(length=FOUR_GIB),
        "data before an association": p_data((1, 3, b"x")),
        "an unknown type": b"\x09\0\0\0\0\x04abcd",
        "129 contexts": request(*(context(n) for n in range(129))),
        "a thousand transfer syntaxes": request(context(1, CT, (EXPLICIT,) * 1000)),
        "five thousand user items": request(user=USER + item(0x54, b"") * 5000),
        "an item longer than the request": request(user=USER + b"\x54\0\xff\xff"),
        "an end before the titles": b"\x01\0\0\0\0\x10" + b"a" * 16,
    }.items(),
    ids=lambda pair: pair[0],
)
def test_a_first_pdu_that_is_none_to_be_served_is_aborted(first: tuple[str, bytes]) -> None:
    with listening(request_s=60.0) as port:
        assert [pdu[0] for pdu in exchange(port, first[1], finish=False)] == [ABORT]
        assert echo(port) > 0


def test_titles_padded_with_nul_are_the_same_titles() -> None:
    padded = request(called="DICOM_NODE\0\0\0\0\0\0", calling="CT1\0")
    with listening() as port:
        assert [pdu[0] for pdu in exchange(port, padded)][:1] == [ACCEPT]


@pytest.mark.usefixtures("either_loop")
def test_a_pdu_of_four_gib_within_an_association_is_aborted_unread() -> None:
    with listening() as port:
        got = exchange(port, request(), p_data((1, 3, b"x"), length=FOUR_GIB))
        assert {pdu[0] for pdu in got} == {ACCEPT, ABORT}


@pytest.mark.usefixtures("either_loop")
def test_an_object_beyond_the_bound_is_never_acknowledged_and_its_memory_is_given_back() -> None:
    kept: list[Received] = []

    def accept(received: Received) -> StoreStatus:
        kept.append(received)
        return StoreStatus.SUCCESS

    big, small = encoded(ct(1)) + b"x" * 2**20, encoded(ct(2))
    one = receiver(accept, max_object=2**20)
    port = one.start()
    try:
        parts = [big[at : at + 60_000] for at in range(0, len(big), 60_000)]
        data = [p_data((1, 2 if part is parts[-1] else 0, part)) for part in parts]
        got = exchange(port, request(), p_data((1, 3, store_request("1.2.3"))), *data)
        assert kept == []
        assert got[1][0] == ABORT or statuses(got) == [StoreStatus.OUT_OF_RESOURCES]
        got = exchange(port, request(), p_data((1, 3, store_request("1.2.4"))), p_data((1, 2, small)))
        assert [received.data_set for received in kept] == [small]
        assert statuses(got) == [StoreStatus.SUCCESS]
    finally:
        one.stop(GRACE_S)
    assert one._memory.lent == 0


@pytest.mark.usefixtures("either_loop")
def test_a_stranger_who_may_echo_takes_no_memory_from_a_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in the context of Verification is no object, whatever its message says."""
    one = receiver(lambda _: StoreStatus.SUCCESS, echo_from_anyone=True, max_object=32 * 2**20)
    lend, most = one._memory.lend, [0]

    def noted(size: int, *, held: int) -> bool:
        lent = lend(size, held=held)
        most.append(one._memory.lent)
        return lent

    monkeypatch.setattr(one._memory, "lend", noted)
    verification = request(context(1, syntaxes.VERIFICATION), calling="STRANGER")
    parts = [p_data((1, 0, b"x" * 120_000))] * 100
    port = one.start()
    try:
        exchange(port, verification, p_data((1, 3, store_request("1.2.3"))), *parts, p_data((1, 2, b"x")))
        assert echo(port) > 0
    finally:
        one.stop(GRACE_S)
    assert max(most) <= NO_OBJECT


@pytest.mark.usefixtures("either_loop")
def test_large_objects_on_their_way_have_no_slice_refused() -> None:
    largest = 8 * 2**20
    parts = [p_data((1, 0, b"x" * 120_000))] * (largest // 120_000)
    begun = [p_data((1, 3, store_request("1.2.3"))), *parts]
    one = receiver(lambda _: StoreStatus.SUCCESS, max_object=largest)
    port = one.start()
    try:
        with silent(port, 2) as never_ending:
            for connection in never_ending:
                connection.sendall(request())
                assert connection.recv(1)[0] == ACCEPT
                connection.sendall(b"".join(begun))
            held, deadline = len(never_ending) * len(parts) * 120_000, time.monotonic() + 60
            while one._memory.lent < held:  # until then a third could take the room of one of them, and that would end
                assert time.monotonic() < deadline, f"{one._memory.lent} of {held} bytes came"
                time.sleep(0.01)
            whole = [request(), *begun, p_data((1, 2, b"x"))]
            tries = (statuses(exchange(port, *whole)) for _ in range(100))
            assert any(said != [StoreStatus.SUCCESS] for said in tries), "soon there is no room for a third large one"
            got = exchange(port, request(), *begun[:6], p_data((1, 2, b"x")))
            assert statuses(got) == [StoreStatus.SUCCESS]
    finally:
        one.stop(GRACE_S)
    assert one._memory.lent == 0


def statuses(pdus: list[bytes]) -> list[int]:
    """Of the responses to C-STORE among the PDUs."""
    return [status for _, status in responses(pdus)]


@pytest.mark.usefixtures("either_loop")
def test_a_command_set_without_end_is_not_listened_to() -> None:
    with listening() as port:
        endless = [p_data((1, 1, b"\0" * 60_000))] * (command.MAX_COMMAND // 60_000 + 2)
        _, *after = exchange(port, request(), *endless, finish=False)  # which fails where it is not closed
        assert [pdu[0] for pdu in after] in ([ABORT], []), "a reset by what was not read any more may overtake it"


def test_a_scan_of_the_port_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), listening() as port:
        for _ in range(6 * tally.IN_FULL):
            exchange(port, b"GET / HTTP/1.1\r\n\r\n")
            exchange(port, request(calling="SCANNER"))
    lines = [record.getMessage() for record in caplog.records if record.name == "dicom_node.scp"]
    assert 2 <= len(lines) <= 3 * tally.IN_FULL
    assert any("SCANNER" in line for line in lines)


def test_what_was_not_told_in_full_is_told_as_a_number(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    one = tally.Tally(logging.getLogger("tally"), clock=lambda: now[0])
    with caplog.at_level(logging.INFO):
        for _ in range(1000):
            one.warn("knock", address="192.0.2.1")
        now[0] = tally.WINDOW_S
        one.flush()
    told = [record.getMessage() for record in caplog.records]
    assert told == ["knock address=192.0.2.1"] * tally.IN_FULL + [f"knock more={1000 - tally.IN_FULL} in_s=60"]


def test_a_load_balancers_look_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), listening() as port:
        assert exchange(port) == []
    assert [r for r in caplog.records if r.name == "dicom_node.scp"] == []


def test_tls_spoken_to_a_plain_port_is_turned_away_at_once() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        listening(request_s=60.0) as port,
        socket.create_connection(("127.0.0.1", port)) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        context.wrap_socket(plain)


@pytest.mark.usefixtures("either_loop")
def test_a_peer_that_stops_in_the_middle_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops in the middle of a PDU: its association ends."""
    monkeypatch.setattr(library_loop, "CALM_S", 0.5)
    monkeypatch.setattr(own_loop, "CALM_S", 0.5)
    with listening() as port:  # and `exchange` fails where it is not closed
        assert exchange(port, request(), b"\x04\0\0\0\xff\xff" + b"a" * 100, finish=False)[0][0] == ACCEPT
        assert echo(port) > 0
