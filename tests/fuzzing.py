"""A mutation fuzzer over real association bytes, and the referee that judges what the receiver made of them.

    python tests/fuzzing.py --count 30000 [--seed 1] [--loop pynetdicom]

Sessions are recorded from a real sender, broken in one to four ways, and sent. The receiver must end each of them, must
answer Success only for a data set that it kept exactly as it came, and must serve a good sender afterwards. The referee
reads the stream that was sent by itself and shares no code with the receiver.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from made import Made, ct, made_node, part10
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from receiving import associate, exchange, pdus, receiver

from dicom_node import digests
from dicom_node.network.scp import Receiver
from dicom_node.received import Received
from dicom_node.status import StoreStatus
from dicom_node.store.tables import instances
from train.options import positive, seed

SESSION_S = 120.0  # a session that lasts longer is a hang; twice the longest wait there is, for busy machines
_IMPLICIT = "1.2.840.10008.1.2"


@dataclass
class Kept:
    """Stands before the node's `accept` and remembers what was promised to whom."""

    node: Made
    promised: dict[str, list[bytes]] = field(default_factory=dict)
    """Calling AE title -> data sets for which `accept` returned Success."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def accept(self, got: Received) -> StoreStatus:
        status = self.node.acceptor.accept(got)
        if status == StoreStatus.SUCCESS:
            with self.lock:
                self.promised.setdefault(got.calling_aet, []).append(got.data_set)
        return status

    def missing(self) -> list[str]:
        """Digests of promised data sets that are not, byte for byte, in a file that a row names."""
        rows = {row.digest: row.file for row in self.node.rows(instances)}
        sums = {digests.of(data): data for known in self.promised.values() for data in known}
        return [
            digest
            for digest, data in sums.items()
            if digest not in rows or not self.node.spool.read(rows[digest]).endswith(data)
        ]


# --- what is sent


def record(port: int) -> list[list[bytes]]:
    """Sessions of a real sender, a list of PDUs each."""
    found = []
    for syntax in ("1.2.840.10008.1.2.1", _IMPLICIT):
        sent: list[bytes] = []
        association = associate(port, syntax=syntax, sent=sent)
        association.send_c_echo()
        for number in (1, 2, 3):
            association.send_c_store(dcmread(DicomBytesIO(part10(ct(number), syntax=syntax))), msg_id=number)
        association.release()
        found.append(sent)
    echo: list[bytes] = []
    association = associate(port, sent=echo)
    association.send_c_echo()
    association.abort()
    return [*found, echo]


Session = list[bytes]
Mutation = Callable[[random.Random, Session, Sequence[Session]], Session]


def flip(rng: random.Random, session: Session, _: Sequence[Session]) -> Session:
    """Some bits of one PDU, its header more often than its rest."""
    at = rng.randrange(len(session))
    pdu = bytearray(session[at])
    for _ in range(rng.choice((1, 1, 2, 8))):
        where = rng.randrange(min(len(pdu), rng.choice((6, 32, 256, 1 << 20))))
        pdu[where] ^= 1 << rng.randrange(8)
    return [*session[:at], bytes(pdu), *session[at + 1 :]]


def lie(rng: random.Random, session: Session, _: Sequence[Session]) -> Session:
    """A length, or whatever stands at a random place, becomes a number that hurts."""
    at = rng.randrange(len(session))
    pdu = bytearray(session[at])
    size = rng.choice((1, 2, 4))
    where = rng.choice((2, 6, 10, 76, rng.randrange(len(pdu))))
    number = rng.choice((0, 1, 2, 3, 5, 7, 0x7F, 0xFF, len(pdu), len(pdu) + 1, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
    pdu[where : where + size] = (number & (256**size - 1)).to_bytes(size, rng.choice(("big", "little")))
    return [*session[:at], bytes(pdu), *session[at + 1 :]]


def cut(rng: random.Random, session: Session, _: Sequence[Session]) -> Session:
    """The stream ends somewhere."""
    at = rng.randrange(len(session))
    return [*session[:at], session[at][: rng.randrange(len(session[at]))]]


def double(rng: random.Random, session: Session, _: Sequence[Session]) -> Session:
    at = rng.randrange(len(session))
    return [*session[: at + 1], *[session[at]] * rng.choice((1, 1, 1, 20)), *session[at + 1 :]]


def drop(rng: random.Random, session: Session, _: Sequence[Session]) -> Session:
    at = rng.randrange(len(session))
    return session[:at] + session[at + 1 :]


def shuffle(rng: random.Random, session: Session, _: Sequence[Session]) -> Session:
    one, other = rng.randrange(len(session)), rng.randrange(len(session))
    swapped = list(session)
    swapped[one], swapped[other] = swapped[other], swapped[one]
    return swapped


def splice(rng: random.Random, session: Session, others: Sequence[Session]) -> Session:
    """The beginning of this one, the end of another."""
    other = rng.choice(others)
    return session[: rng.randrange(1, len(session) + 1)] + other[rng.randrange(len(other)) :]


def noise(rng: random.Random, session: Session, _: Sequence[Session]) -> Session:
    """A PDU of any type with any content, or bytes that are no PDU."""
    content = rng.randbytes(rng.choice((0, 4, 60, 3000)))
    pdu = struct.pack(">BxI", rng.randrange(9), len(content)) + content
    at = rng.randrange(len(session) + 1)
    return [*session[:at], rng.choice((pdu, content)), *session[at:]]


def fragment(rng: random.Random, session: Session, _: Sequence[Session]) -> Session:
    """The values of one P-DATA in many, in one PDU or several, a few of them for another context or of another kind."""
    at = rng.randrange(len(session))
    pdu = session[at]
    if pdu[:1] != b"\x04" or len(pdu) < 14:
        return session
    number, control, content = pdu[10], pdu[11], pdu[12:]
    step = rng.choice((1, 3, 50, 700)) if len(content) < 3000 else rng.choice((50, 700))
    parts = [content[i : i + step] for i in range(0, len(content), step)]
    values = []
    for i, part in enumerate(parts):
        kind = control if i == len(parts) - 1 else control & ~2
        if rng.random() < 0.002:
            kind ^= rng.randrange(4)
        context = number if rng.random() > 0.002 else rng.randrange(256)
        values.append(struct.pack(">IBB", len(part) + 2, context, kind) + part)
    if rng.random() < 0.5:
        values = [b"".join(values)]
    return [*session[:at], *(struct.pack(">BxI", 4, len(v)) + v for v in values), *session[at + 1 :]]


def nest(rng: random.Random, session: Session, _: Sequence[Session]) -> Session:
    """Sequences within sequences at the end of one data set."""
    at = rng.randrange(len(session))
    pdu = session[at]
    if pdu[:1] != b"\x04" or len(pdu) < 200:
        return session
    depth = rng.choice((3, 249, 2000))
    deep = b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    content = pdu[12:] + deep
    value = struct.pack(">IBB", len(content) + 2, pdu[10], pdu[11]) + content
    return [*session[:at], struct.pack(">BxI", 4, len(value)) + value, *session[at + 1 :]]


MUTATIONS: tuple[Mutation, ...] = (flip, flip, lie, lie, cut, double, drop, shuffle, splice, noise, fragment, nest)


def broken(rng: random.Random, sessions: Sequence[Session], calling: str) -> tuple[bytes, tuple[str, ...]]:
    """A stream, and how it was broken; it names this caller, unless that was broken too."""
    session = list(rng.choice(sessions))
    session[0] = session[0][:26] + calling.encode().ljust(16) + session[0][42:]
    done = []
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        mutation = rng.choice(MUTATIONS)
        session = [pdu for pdu in mutation(rng, session, sessions) if pdu] or session
        done.append(mutation.__name__)
    return b"".join(session), tuple(done)


def title(seed: int, number: int) -> str:
    """The caller of one session; no flipped bit makes it that of another."""
    return hashlib.sha256(f"{seed} {number}".encode()).hexdigest()[:15]


# --- the referee


def data_sets(stream: bytes) -> list[bytes]:
    """Every data set that the stream carries, whichever message it belongs to."""
    found, parts = [], bytearray()
    for pdu in pdus(stream):
        if pdu[0] != 4:
            continue
        at = 6
        while at + 6 <= len(pdu):
            size = int.from_bytes(pdu[at : at + 4])
            if size < 2 or at + 4 + size > len(pdu):
                break
            control, content = pdu[at + 5], pdu[at + 6 : at + 4 + size]
            if not control & 1:
                parts += content
                if control & 2:
                    found.append(bytes(parts))
                    parts = bytearray()
            at += 4 + size
    return found


def responses(answers: Sequence[bytes]) -> list[tuple[int, int]]:
    """(message it responds to, status) of each C-STORE response."""
    found = []
    for pdu in answers:
        if pdu[0] == 4 and pdu[11] == 3:
            elements = dict(_elements(pdu[12:]))
            if elements.get(0x0100) == b"\x01\x80":
                status, message = (int.from_bytes(elements[tag], "little") for tag in (0x0900, 0x0120))
                found.append((message, status))
    return found


def _elements(command_set: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 8 <= len(command_set):
        _, tag, size = struct.unpack_from("<HHI", command_set, at)
        yield tag, command_set[at + 8 : at + 8 + size]
        at += 8 + size


@dataclass
class Tallied:
    quiet_s: float
    """How long nothing must come until it is said that no more will be sent; pynetdicom drops what it holds then."""
    sessions: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    refused: int = 0
    longest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


def attack(port: int, kept: Kept, stream: bytes, calling: str, what: str, tally: Tallied) -> None:
    """Send one broken session, and judge what became of it."""
    begun = time.monotonic()
    try:
        first = stream[: 6 + int.from_bytes(stream[2:6])]
        answers = exchange(port, first, stream[len(first) :], timeout_s=SESSION_S, quiet_s=tally.quiet_s)
    except (TimeoutError, ConnectionRefusedError) as exc:
        with kept.lock:
            tally.wrong.append(f"{what}: {type(exc).__name__}")
        return
    named = stream[26:42].decode("ascii", "replace").strip(" \0")
    successes = sum(status == 0 for _, status in responses(answers))
    with kept.lock:
        promised = kept.promised.get(named, [])
        carried = data_sets(stream)
        if successes > len(promised):
            tally.wrong.append(f"{what}: {successes} times Success, kept {len(promised)}")
        if named == calling and any(data not in carried for data in promised):  # else others name the same caller
            tally.wrong.append(f"{what}: kept what was not sent")
        tally.sessions += 1
        tally.acknowledged += successes
        tally.refused += len(responses(answers)) - successes
        tally.ended[{7: "abort", 6: "release", 3: "reject"}.get(answers[-1][0], "closed") if answers else "closed"] += 1
        tally.longest_s = max(tally.longest_s, time.monotonic() - begun)


def run(one: Receiver, port: int, kept: Kept, *, count: int, seed: int, at_once: int = 8) -> Tallied:
    """`count` broken sessions, then a good one."""
    sessions = record(port)
    tally = Tallied(0.05 if one._rules.own_loop else 0.5)

    def session(number: int) -> None:
        calling = title(seed, number)
        stream, how = broken(random.Random(seed * 1_000_003 + number), sessions, calling)
        attack(port, kept, stream, calling, f"session {number} {'+'.join(how)}", tally)

    with ThreadPoolExecutor(at_once) as pool:
        for done in pool.map(session, range(count)):
            assert done is None
    tally.wrong += [f"promised and not kept: {digest}" for digest in kept.missing()]
    association = associate(port)
    if not association.is_established or association.send_c_echo().Status != 0:
        tally.wrong.append("no good association afterwards")
    association.release()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=positive, default=30_000)
    parser.add_argument("--seed", type=seed, default=1)
    parser.add_argument("--at-once", type=positive, default=8)
    parser.add_argument("--loop", choices=("own", "pynetdicom"), default="own")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = Kept(made_node(Path(folder)))
        one = receiver(
            kept.accept,
            senders=frozenset({"*"}),
            max_associations=512,
            max_per_address=512,
            own_loop=given.loop == "own",
        )
        port = one.start()
        threads, begun = threading.active_count(), time.monotonic()
        logging.disable()
        tally = run(one, port, kept, count=given.count, seed=given.seed, at_once=given.at_once)
        took_s = time.monotonic() - begun
        one.stop()
        left = threading.active_count() - threads
    sys.stdout.write(
        f"{tally.sessions} broken sessions in {took_s:.0f} s: {dict(tally.ended)}, {tally.acknowledged} objects "
        f"acknowledged and kept, {tally.refused} refused, longest {tally.longest_s:.2f} s, "
        f"threads left {max(0, left)}\n"
    )
    for wrong in tally.wrong[:20]:
        sys.stdout.write(f"WRONG {wrong}\n")
    return bool(tally.wrong)


if __name__ == "__main__":
    sys.exit(main())
