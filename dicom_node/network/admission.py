"""Who may connect and ask for what, and how many at once; values and counting, no sockets are read here.

A connection first waits for its association request. Waiting connections never shut anybody out: beyond `MAX_WAITING`
the one that has waited longest is ended for the new one, and a real sender asks within milliseconds.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from dicom_node.configvalues import ANYBODY
from dicom_node.network import syntaxes
from dicom_node.network.request import Request
from dicom_node.network.tls import TlsFiles

MAX_WAITING = 256  # a thread each
MAX_WAITING_PER_ADDRESS = 64
MAX_STRANGERS = 8  # associations of those who may only echo; counted apart from the senders', so they take none away
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Rules:
    """What the receiver lets in; config.toml explains the keys of [node] with these names."""

    ae_title: str
    senders: frozenset[str]
    addresses: tuple[Network, ...] = ()
    echo_from_anyone: bool = False
    max_associations: int = 64
    max_per_address: int = 32
    request_s: float = 10.0
    idle_s: float = 120.0
    max_object: int = 1024 * 2**20
    """Bytes."""
    own_loop: bool = True
    tls: TlsFiles | None = None
    has_room: Callable[[], bool] = lambda: True
    """Whether there is room to store anything; if not, associations for storage are rejected before any data flows."""

    def admits(self, address: Address) -> bool:
        return not self.addresses or any(address in network for network in self.addresses)

    def knows(self, calling: str) -> bool:
        return (ANYBODY in self.senders and calling.isprintable()) or calling in self.senders


@dataclass(frozen=True)
class Refusal:
    """A-ASSOCIATE-RJ: result, source, reason (PS3.8 9.3.4), and text for a person."""

    answer: tuple[int, int, int]
    reason: str
    hint: str


def refusal(rules: Rules, request: Request) -> Refusal | None:
    """Why this association is rejected, permanently or until there is room; None if it is not."""
    if request.called != rules.ae_title:
        return Refusal((1, 1, 7), "called AE title is not ours", f"this node is {rules.ae_title}: see node.ae_title")
    if rules.knows(request.calling) or (rules.echo_from_anyone and echo_alone(request)):
        if any(map(syntaxes.is_storage, request.abstract_syntaxes)) and not rules.has_room():
            return Refusal((2, 3, 2), "nothing can be stored", "see dicom-node status: is the disk full, or missing?")
        return None
    return Refusal((1, 1, 3), "calling AE title is not allowed", "to let it in, add it to node.allowed_senders")


def echo_alone(request: Request) -> bool:
    """Whether nothing but C-ECHO can happen on this association."""
    return request.abstract_syntaxes == {syntaxes.VERIFICATION}


def address(host: str) -> Address:
    """The peer's address; an IPv4 address mapped into IPv6 becomes IPv4 again."""
    found = ipaddress.ip_address(host)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


@dataclass(eq=False)
class Connection:
    """One TCP connection from its arrival to its end."""

    number: int
    """The node's own, for the log."""
    socket: socket.socket
    address: Address
    calling: str | None = None
    """Known once it has an association."""
    stranger: bool = False
    """Its association is for C-ECHO alone, by somebody who is not on the list."""
    end: Callable[[], None] = lambda: None
    """Asks the association to end cleanly."""
    ended: threading.Event = field(default_factory=threading.Event)

    def cut(self) -> None:
        """End it at once; whoever reads from it sees the end of input."""
        with contextlib.suppress(OSError, ValueError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)  # past TLS, which another thread may be reading


class Connections:
    """All open connections, and the limits on their number. Called by many threads."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._lock = threading.Lock()
        self._open: dict[int, Connection] = {}
        self._numbers = itertools.count(1)

    def arrived(self, sock: socket.socket, address: Address) -> tuple[Connection, Connection | None]:
        """Returns the new connection, and the one that was ended for it, if any."""
        with self._lock:
            new = Connection(next(self._numbers), sock, address)
            waiting = [c for c in self._open.values() if c.calling is None]
            here = [c for c in waiting if c.address == address]
            crowd = here if len(here) >= MAX_WAITING_PER_ADDRESS else waiting if len(waiting) >= MAX_WAITING else []
            oldest = crowd[0] if crowd else None  # a dict keeps the order of arrival
            if oldest is not None:
                del self._open[oldest.number]
            self._open[new.number] = new
        if oldest is not None:
            oldest.cut()
        return new, oldest

    def associate(self, connection: Connection, calling: str) -> Refusal | None:
        """Count it among the associations, or say why it must try again later."""
        with self._lock:
            stranger = not self._rules.knows(calling)
            alike = [c for c in self._open.values() if c.calling is not None and c.stranger == stranger]
            from_there = sum(c.address == connection.address for c in alike)
            if stranger and len(alike) >= MAX_STRANGERS:
                return Refusal((2, 3, 2), "too many echoes from strangers", "add it to node.allowed_senders")
            if len(alike) >= self._rules.max_associations:
                return Refusal((2, 3, 2), "too many associations", "see node.max_associations")
            if from_there >= self._rules.max_per_address:
                return Refusal((2, 3, 2), "too many from this address", "see node.max_associations_per_address")
            connection.stranger = stranger
            connection.calling = calling
            self._open[connection.number] = connection
        return None

    def left(self, connection: Connection) -> None:
        """It no longer counts; may be called more than once."""
        with self._lock:
            self._open.pop(connection.number, None)

    def associated(self) -> list[Connection]:
        with self._lock:
            return [c for c in self._open.values() if c.calling is not None]

    def waiting(self) -> list[Connection]:
        with self._lock:
            return [c for c in self._open.values() if c.calling is None]


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """`192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`. Raises ValueError."""
    return tuple(ipaddress.ip_network(text.strip()) for text in texts)
