"""How fast instances are received: this node beside DCMTK, Orthanc and pynetdicom, in one run, as ratios.

    TMPDIR=/a/local/disk .venv/bin/python benchmarks/receive.py [--rounds 5] [--instances 400] [--only node,orthanc]
        [--busy] [--quiet] [--other /another/checkout]

400 CT instances of 512 x 512 x 16 bit are sent by DCMTK's storescu over 1 and over 4 associations, to each receiver in
turn and in another order each round, under UIDs that are new each round. TCP_NODELAY=1 for every rival: without it,
Nagle's algorithm holds them at some 20 images/s. Each receiver's CPU time is that of its processes alone, this node's
that of the receiving process: the images are localizers, which no model looks at, so that its worker is idle. The
latencies come from a sender of our own that waits for each answer. The floor is what one file, its fsync and one
commit cost. With `--busy` each receiver takes every turn a second time, beside a process that classifies slices
without end by the shipped model, as the worker does with a backlog, at the worker's priority; it sleeps in all other
turns. With `--quiet` each turn waits until the machine has had next to nothing else to do for a second, for where
others use it too. With `--other` the node of another checkout of this project is a receiver, too.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import socket
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY)]

from benchmarks.receivers import (  # noqa: E402
    ENVIRONMENT,
    RECEIVERS,
    TITLE,
    Receiver,
    checked_out,
    classifying,
    running,
)
from train.options import positive  # noqa: E402

CLASS, SYNTAX = str(uid.CTImageStorage), str(uid.ExplicitVRLittleEndian)
PLACE = "1.2.826.0.1.3680043.10.99.11111111.22222222"  # replaced in each instance by round and number
OTHER = "node of the other checkout"
LATENCIES = 100
IDLE = 0.9  # of all cores, for a machine that counts as quiet
PATIENCE_S = 120.0  # then a turn is taken as it is, and the report says so


def template() -> bytes:
    """One instance as a Part 10 file, with `PLACE` where its UID belongs."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CLASS, PLACE
    ds.StudyInstanceUID, ds.SeriesInstanceUID = PLACE[:-17] + "1", PLACE[:-9]
    ds.PatientName, ds.PatientID, ds.Modality = "SYNTHETIC^RECEIVE", "SYN-1", "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.Rows = ds.Columns = 512
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    noise = np.random.default_rng(1).normal(0, 300, (512, 512)).astype("<i2")
    ds.add_new("PixelData", "OW", noise.tobytes())
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CLASS, PLACE
    ds.file_meta.TransferSyntaxUID = SYNTAX
    buffer = DicomBytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return bytes(buffer.getvalue())


def instances(made: bytes, number: int, count: int, folder: Path, parts: int) -> list[Path]:
    """Files under new UIDs, shared out among `parts` folders, in place of earlier ones of as many."""
    folders = [folder / f"{parts}-{part}" for part in range(parts)]
    for one in folders:
        one.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        content = made.replace(PLACE.encode(), named(number, n).encode())
        content = content.replace(PLACE[:-9].encode(), named(number, n)[:-9].encode())
        (folders[n % parts] / f"{n:04d}.dcm").write_bytes(content)
    return folders


def named(number: int, n: int) -> str:
    return f"{PLACE[:-17]}{10_000_000 + number}.{10_000_000 + n}"


def send(one: Receiver, folders: Sequence[Path], count: int, *, busy: bool = False) -> None:
    """storescu, an association a folder."""
    associations = len(folders)
    before, begun = one.cpu(), time.monotonic()
    senders = [
        subprocess.Popen(
            ["storescu", "-aec", TITLE, "+sd", "-R", "127.0.0.1", str(one.port), str(folder)],
            env=ENVIRONMENT,
            stderr=subprocess.DEVNULL,
        )
        for folder in folders
    ]
    failed = [sender.wait() for sender in senders]
    took_s = time.monotonic() - begun
    if any(failed):
        raise SystemExit(f"storescu failed against {one.name}")
    if busy:
        one.busy[associations].append(count / took_s)
        return
    time.sleep(0.5)  # until a forked child is reaped, and its CPU time counted
    one.rates[associations].append(count / took_s)
    one.cpu_s[associations].append((one.cpu() - before) / count * 1000)


class Alike:
    """Sees to it that each turn finds the machine alike."""

    def __init__(self, scratch: Path, size: int, *, quiet: bool) -> None:
        """`size`: bytes that a turn writes; `quiet`: whether to wait for a moment in which nothing else is done."""
        self._scratch, self._size, self._quiet = scratch, size, quiet
        self.in_vain = 0
        """Turns that began in no quiet moment."""

    def prepare(self) -> None:
        """The host of a virtual machine takes back memory that is free; what the disk's cache gets is fetched again."""
        if self._quiet:
            self._wait()
        with self._scratch.open("wb") as file:
            for _ in range(self._size // 2**20 + 1):
                file.write(bytes(2**20))
            file.truncate(0)

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        quiet = 0
        while quiet < 2:
            quiet = quiet + 1 if idle(0.5) >= IDLE else 0
            if time.monotonic() > deadline:
                self.in_vain += 1
                return


def idle(over_s: float) -> float:
    """Share of all cores that has nothing to do; one that waits for the disk has."""

    def ticks() -> list[int]:
        return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]

    before = ticks()
    time.sleep(over_s)
    passed = [now - then for now, then in zip(ticks(), before, strict=True)]
    return passed[3] / max(1, sum(passed))


def latencies(one: Receiver, made: bytes, number: int) -> None:
    """Milliseconds from the first byte of a C-STORE to its answer, one after the other."""
    data_set = made[144 + int.from_bytes(made[140:144], "little") :]  # past the File Meta Information (PS3.10 7.1)
    with associated(one.port) as (connection, longest):
        for n in range(LATENCIES):
            content = data_set.replace(PLACE.encode(), named(number, n).encode())
            content = content.replace(PLACE[:-9].encode(), named(number, n)[:-9].encode())
            message = value(3, store_request(named(number, n)))
            step = longest - 6
            for start in range(0, len(content), step):
                message += value(2 if start + step >= len(content) else 0, content[start : start + step])
            begun = time.monotonic()
            connection.sendall(message)
            if pdu(connection)[0] != 4:
                raise SystemExit(f"{one.name} did not answer C-STORE")
            one.latencies_ms.append((time.monotonic() - begun) * 1000)
        connection.sendall(b"\5\0\0\0\0\4\0\0\0\0")
        pdu(connection)


@contextmanager
def associated(port: int) -> Iterator[tuple[socket.socket, int]]:
    """An association for C-STORE of CT, and the longest PDU that is taken. Raises ConnectionError."""
    item = lambda kind, value: struct.pack(">BxH", kind, len(value)) + value  # noqa: E731
    context = item(0x20, b"\1\0\0\0" + item(0x30, CLASS.encode()) + item(0x40, SYNTAX.encode()))
    user = item(0x50, item(0x51, struct.pack(">I", 131072)) + item(0x52, b"1.2.3"))
    fixed = struct.pack(">Hxx16s16s32x", 1, TITLE.encode().ljust(16), b"LATENCY".ljust(16))
    body = fixed + item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(struct.pack(">BxI", 1, len(body)) + body)
        answer = pdu(connection)
        if not answer or answer[0] != 2:
            raise ConnectionRefusedError
        at = answer.index(b"\x51\0\0\4")
        yield connection, int.from_bytes(answer[at + 4 : at + 8]) or 131072


def accepted(port: int) -> bool:
    """Whether an association is accepted there."""
    try:
        with associated(port) as (connection, _):
            connection.sendall(b"\5\0\0\0\0\4\0\0\0\0")
            pdu(connection)
    except OSError:
        return False
    return True


def pdu(connection: socket.socket) -> bytes:
    header = connection.recv(6, socket.MSG_WAITALL)
    return header + connection.recv(int.from_bytes(header[2:]), socket.MSG_WAITALL)


def value(control: int, content: bytes) -> bytes:
    return struct.pack(">BxIIBB", 4, len(content) + 6, len(content) + 2, 1, control) + content


def store_request(instance: str) -> bytes:
    def element(tag: int, content: bytes) -> bytes:
        content += b"\0" * (len(content) % 2)
        return struct.pack("<HHI", 0, tag, len(content)) + content

    inside = element(2, CLASS.encode()) + element(0x100, b"\1\0") + element(0x110, b"\1\0") + element(0x700, b"\0\0")
    inside += element(0x800, b"\1\0") + element(0x1000, instance.encode())
    return element(0, struct.pack("<I", len(inside))) + inside


def floor(folder: Path, content: bytes, count: int, threads: int) -> float:
    """Images/s of nothing but what durability asks: write and fsync under a name made before, one committed row."""
    folder.mkdir(parents=True)
    for n in range(count):
        (folder / f"{n}.dcm").touch()
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    with sqlite3.connect(folder / "floor.sqlite") as first:
        first.execute("PRAGMA journal_mode=WAL")
        first.execute("CREATE TABLE instances (id INTEGER PRIMARY KEY, file TEXT)")

    def keep(numbers: range) -> None:
        database = sqlite3.connect(folder / "floor.sqlite", timeout=60, isolation_level=None)
        database.execute("PRAGMA synchronous=FULL")
        for n in numbers:
            with open(folder / f"{n}.dcm", "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            database.execute("INSERT INTO instances (file) VALUES (?)", (f"{n}.dcm",))
        database.close()

    begun = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(keep, [range(count)[part::threads] for part in range(threads)]))
    rate = count / (time.monotonic() - begun)
    for file in folder.glob("*.dcm"):
        os.truncate(file, 0)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--instances", type=positive, default=400)
    parser.add_argument("--only", default=",".join(RECEIVERS), help="comma-separated, of: " + ", ".join(RECEIVERS))
    parser.add_argument("--quiet", action="store_true", help="wait for a quiet moment before each turn")
    parser.add_argument(
        "--busy", action="store_true", help="every turn a second time, beside a process that classifies"
    )
    parser.add_argument("--other", type=Path, metavar="CHECKOUT", help="also the node of this checkout")
    given = parser.parse_args()
    names = [name for name in RECEIVERS if name in given.only.split(",")]
    if given.other is not None:
        RECEIVERS[OTHER] = checked_out(given.other)
        names.append(OTHER)
    made, numbers = template(), itertools.count(1)
    floors: dict[int, list[float]] = {1: [], 4: []}
    beside = classifying() if given.busy else nullcontext(lambda _: None)
    with (
        tempfile.TemporaryDirectory() as temporary,
        running(names, Path(temporary) / "receivers") as receivers,
        beside as classify,
    ):
        alike = Alike(Path(temporary) / "scratch", given.instances * len(made), quiet=given.quiet)
        for turn in range(given.rounds):
            order = receivers[turn % len(receivers) :] + receivers[: turn % len(receivers)]
            for associations, busy in itertools.product((1, 4), (False, True) if given.busy else (False,)):
                number, sent = next(numbers), Path(temporary) / "sent"
                folders = instances(made, number, given.instances, sent, associations)
                for one in order:
                    alike.prepare()
                    classify(busy)
                    send(one, folders, given.instances, busy=busy)
                    classify(False)
                    empty(one)
            for associations, rates in floors.items():
                alike.prepare()
                rates.append(floor(Path(temporary) / f"floor{next(numbers)}", made, given.instances, associations))
            number = next(numbers)
            for one in order:
                alike.prepare()
                latencies(one, made, number)
                empty(one)
        print(report(receivers, floors, given))
        if alike.in_vain:
            print(f"{alike.in_vain} turns began while the machine had other things to do")


def empty(one: Receiver) -> None:
    """So that the disk lasts. Files stay, as at a hospital: ext4 is slow to make new ones where many were deleted."""
    for file in one.stores.rglob("*"):
        if file.is_file() and "sqlite" not in file.name and file.stat().st_size > 400_000:
            os.truncate(file, 0)


def report(receivers: Sequence[Receiver], floors: dict[int, list[float]], given: argparse.Namespace) -> str:
    machine = f"{os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[0]:.1f}"
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}, medians of {given.rounds} rounds of {given.instances} instances",
        "",
        "| receiver | images/s, 1 association | 4 associations | CPU s per 1,000 images, 1 | 4 | p50 ms | p99 ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in receivers:
        rates = " | ".join(f"{statistics.median(one.rates[n]):.0f}" for n in (1, 4))
        cpu = " | ".join(f"{statistics.median(one.cpu_s[n]):.1f}" for n in (1, 4))
        p50, p99 = np.percentile(one.latencies_ms, (50, 99))
        lines.append(f"| {one.name} | {rates} | {cpu} | {p50:.1f} | {p99:.1f} |")
    lines.append(
        "| fsync and commit alone | " + " | ".join(f"{statistics.median(floors[n]):.0f}" for n in (1, 4)) + " | | | | |"
    )
    for one in receivers if given.busy else ():
        kept = [100 * ratio(one.busy[n], one.rates[n]) for n in (1, 4)]
        lines.append(f"{one.name}, beside a process that classifies: {kept[0]:.0f} and {kept[1]:.0f} % of its rate")
    node = next((one for one in receivers if one.name == "node"), None)
    for rival in receivers if node is not None else ():
        if rival is not node:
            faster = [ratio(node.rates[n], rival.rates[n]) for n in (1, 4)]
            cpu = [ratio(node.cpu_s[n], rival.cpu_s[n]) for n in (1, 4)]
            lines.append(
                f"node to {rival.name}: {faster[0]:.2f} at 1 association, {faster[1]:.2f} at 4; "
                f"its CPU time an image {cpu[0]:.2f} and {cpu[1]:.2f}"
            )
    return "\n".join(lines)


def ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """Median of the rounds' ratios: what else the machine did in a round fell on both."""
    return statistics.median(a / max(b, 0.01) for a, b in zip(these, those, strict=True))


if __name__ == "__main__":
    main()
