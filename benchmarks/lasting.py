"""What a node that runs on and on holds more and more of: memory, file handles, threads, processes, the database's log.

    python benchmarks/lasting.py [--minutes 45] [--seed 0]

One `dicom-node serve` with a stand-in for the model, and nobody killed, unlike soak.py. Studies are sent and reported
all the time, under a PACS in every mood, with storage commitment both ways; between them come senders with AE titles
never heard before and an image or two each, who echo, break off, or talk nonsense. Every ten seconds it is noted what
the receiver, the worker and a reading process hold. The first quarter is for what is loaded once and for caches to
fill. Exit status 1 where the median of the last quarter exceeds that of the second by more than a tenth and five.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import platform
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import sqlalchemy as sa  # noqa: E402
from awkward import MOODS  # noqa: E402
from crashing import Soak  # noqa: E402
from made import head_series  # noqa: E402
from running import SENDER  # noqa: E402

from dicom_node import scanner, uids  # noqa: E402
from dicom_node.errors import PeerError  # noqa: E402
from dicom_node.network import scu  # noqa: E402
from dicom_node.store.tables import instances, series  # noqa: E402

EVERY_S = 10.0
MOOD_S = 20.0
AT_ONCE = 2  # studies on their way
Held = dict[str, int]


def visitors(soak: Soak, folder: Path, chance: random.Random, ended: threading.Event) -> None:
    """One after the other, each under a title of its own, two a second at most."""
    node = soak.node.peer
    for number in itertools.count(1):
        if ended.wait(0.5):
            return
        title = f"CT{number:07d}"
        with contextlib.suppress(PeerError, OSError):
            made = head_series(study=uids.fresh(), series=uids.fresh(), PatientID=title)
            items = [scu.outgoing(path) for path in scanner.write(made[: chance.randint(1, 2)], folder)]
            for _ in scu.send(node, title, items):
                if chance.random() < 0.2:
                    break  # the association is aborted
            scu.echo(node, title)
            with socket.create_connection((node.host, node.port), 5.0) as stranger:
                stranger.sendall(chance.randbytes(chance.randint(0, 2000)))


def of_process(name: str, pid: int) -> Held:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        said = dict(line.split(":", 1) for line in file)
    return {
        f"{name}: memory, KiB": int(said["VmRSS"].split()[0]),
        f"{name}: file handles": len(os.listdir(f"/proc/{pid}/fd")),
        f"{name}: threads": int(said["Threads"]),
    }


def held(soak: Soak) -> Held:
    """Raises OSError where a process ends meanwhile, IndexError where there is none."""
    assert soak.node.process is not None
    workers, readers = soak.node.workers(), soak.node.readers()
    found = of_process("receiver", soak.node.process.pid)
    found |= of_process("worker", workers[0]) | of_process("reader", readers[0])
    found["processes, the dead that nobody waited for included"] = 1 + len(workers) + len(readers)
    found["log of the database, bytes"] = (soak.data / "node.sqlite-wal").stat().st_size
    return found


def watched(soak: Soak, chance: random.Random, minutes: float) -> Iterator[Held]:
    """What is held every ten seconds, with studies under way all the time."""
    end = time.monotonic() + 60.0 * minutes
    look_at, change_at = time.monotonic() + EVERY_S, time.monotonic() + MOOD_S
    while (now := time.monotonic()) < end:
        while soak.in_flight() < AT_ONCE:
            soak.send_study()
        if now >= change_at:
            change_at = now + MOOD_S
            soak.pacs.feel(chance.choice(MOODS))
        if now >= look_at:
            look_at = now + EVERY_S
            with contextlib.suppress(OSError, IndexError):
                yield held(soak)
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance, ended = random.Random(given.seed), threading.Event()
    with tempfile.TemporaryDirectory(prefix="lasting-") as temporary, contextlib.ExitStack() as stack:
        soak = Soak(Path(temporary) / "node", seed=given.seed, full_starts=True)
        stack.callback(soak.close)
        config = soak.node.folder / "config.toml"
        config.write_text(config.read_text().replace(f'["{SENDER}"]', '["*"]'))
        soak.node.start()
        folder = Path(temporary) / "visitors"
        visiting = threading.Thread(target=visitors, args=(soak, folder, random.Random(given.seed + 1), ended))
        visiting.start()
        stack.callback(visiting.join)
        stack.callback(ended.set)
        begun, load = datetime.now(UTC), os.getloadavg()[0]
        seen = list(watched(soak, chance, given.minutes))
        came = sa.select(sa.func.count(), sa.func.count(sa.distinct(series.c.calling_aet))).select_from(series)
        (count, titles), (images,) = soak.rows(came)[0], soak.rows(sa.select(sa.func.count(instances.c.id)))[0]
        print(f"{begun:%Y-%m-%d}, {os.cpu_count()} cores, load {load:.1f} before, Python {platform.python_version()};")
        print(f"{given.minutes:g} minutes: {count} series of {titles} AE titles, {images} images, ", end="")
        print(f"{len(soak.pacs.stored)} objects at the PACS; {len(soak.node.log) / count:.0f} bytes of log a series\n")
    sys.exit(1 if table(seen) else 0)


def table(seen: list[Held]) -> bool:
    """Print it; whether something grew."""
    quarter = len(seen) // 4
    before, after = seen[quarter : 2 * quarter], seen[-quarter:]
    print("| what | second quarter | last quarter | most |\n| --- | ---: | ---: | ---: |")
    grown = False
    for what in seen[0]:
        was, is_now = (statistics.median(one[what] for one in part) for part in (before, after))
        grows = is_now > max(1.1 * was, was + 5)
        grown |= grows
        print(f"| {what}{' GROWS' * grows} | {was:.0f} | {is_now:.0f} | {max(one[what] for one in seen)} |")
    return grown


if __name__ == "__main__":
    main()
