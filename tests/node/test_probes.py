"""A day of port probes and load-balancer checks, and the process is as it was: threads, file handles, memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from made import peer
from receiving import exchange, request
from test_tls import certificate

from dicom_node.network import scu

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads and handles in /proc"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make certificates"),
]

TESTS = Path(__file__).resolve().parents[1]
ROUNDS = 20  # of 17 probes: one every four minutes for a day
SILENT = 10  # connections at once to each port that never say anything
GROWTH_KIB = 4 * 1024  # of an allocator; 340 associations that leaked would hold 180,000


@dataclass(frozen=True)
class Held:
    threads: int
    handles: int
    memory_kib: int


def held(process: int) -> Held:
    folder = Path(f"/proc/{process}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return Held(
        int(status["Threads"]), sum(1 for _ in (folder / "fd").iterdir()), int(status["VmRSS"].removesuffix("kB"))
    )


@contextlib.contextmanager
def running(loop: str, folder: Path) -> Iterator[tuple[int, int, int]]:
    """Process ID of a receiver, its plain port, its TLS port."""
    shown, key = certificate(folder, "node", "127.0.0.1")
    command = [sys.executable, str(TESTS / "receiver_process.py"), loop, str(shown), str(key)]
    one_arena = os.environ | {"MALLOC_ARENA_MAX": "1"}  # else each thread's freed memory is a matter of chance
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=one_arena
    ) as process:
        assert process.stdout is not None
        plain, tls = map(int, process.stdout.readline().split())
        yield process.pid, plain, tls
        process.communicate()


def looks(port: int) -> None:
    """A load balancer: is the port open?"""
    socket.create_connection(("127.0.0.1", port)).close()


def resets(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def says(data: bytes) -> Callable[[int], None]:
    def probe(port: int) -> None:
        with contextlib.suppress(OSError):
            exchange(port, data, quiet_s=0.01)

    return probe


def shakes_hands(port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        context.wrap_socket(plain).close()


def associates(port: int) -> None:
    """And leaves without a word."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request())
        assert connection.recv(1)


PROBES = (
    looks,
    looks,
    resets,
    says(b"GET / HTTP/1.0\r\n\r\n"),
    says(b"\x16\x03\x01\x00\xf4" + b"\x5a" * 244),
    says(request(calling="SCANNER")),
    says(request()[:40]),
    shakes_hands,
    associates,
)


def probe_all(plain: int, tls: int, rounds: int, silent: list[socket.socket]) -> None:
    silent += [socket.create_connection(("127.0.0.1", port)) for port in (plain, tls) for _ in range(SILENT)]
    for _ in range(rounds):
        for probe in PROBES:
            for port in (plain, tls):
                if probe is not associates or port == plain:
                    probe(port)


@pytest.mark.parametrize("loop", ["own", "pynetdicom"])
def test_probes_leave_nothing_behind(tmp_path: Path, loop: str) -> None:
    with running(loop, tmp_path) as (process, plain, tls):
        silent: list[socket.socket] = []
        probe_all(plain, tls, ROUNDS // 2, silent)  # what is made once is made
        settled(process, silent)
        before = held(process)
        probe_all(plain, tls, ROUNDS, silent)
        after = settled(process, silent, at_most=before)
        assert scu.echo(peer(plain, ae_title="DICOM_NODE"), "CT1") > 0
    assert (after.threads, after.handles) == (before.threads, before.handles)
    assert after.memory_kib < before.memory_kib + GROWTH_KIB


def settled(process: int, silent: list[socket.socket], at_most: Held | None = None) -> Held:
    """What is held once the node has ended every connection that says nothing."""
    for one in silent:
        one.settimeout(20.0)
        with contextlib.suppress(ConnectionResetError):
            assert one.recv(1) == b""
        one.close()
    silent.clear()
    deadline = time.monotonic() + 20.0
    now = held(process)
    while time.monotonic() < deadline:
        time.sleep(0.2)  # what is awaited is the end of threads in another process
        then, now = now, held(process)
        if (now.threads, now.handles) == (then.threads, then.handles) and (
            at_most is None or now.threads <= at_most.threads
        ):
            break
    return now
