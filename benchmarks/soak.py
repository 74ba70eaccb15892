"""`make soak`: a thousand kills (SOAK_KILLS) in eras of a hundred, each with a node of its own; prints the figures.

Of eight eras two keep the node's data on a small tmpfs, which is filled now and then (that needs the right to mount),
two keep the database on PostgreSQL, whose processes are killed too, and one starts every process in full. Ended by
--minutes, Ctrl-C or SIGTERM, it lets everything come right and counts what was run. Kills count once all that must
hold was seen to hold after them. Exit status 0: nothing acknowledged was lost, each study has one current report at the
PACS, nothing waits.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from train.options import minutes, positive, seed

REPOSITORY = Path(__file__).resolve().parents[1]
ERA = 100
PLAIN, SMALL_DISK, POSTGRESQL, FULL_STARTS = "plain", "small disk", "PostgreSQL", "full starts"
KINDS = (PLAIN, SMALL_DISK, POSTGRESQL, PLAIN, SMALL_DISK, POSTGRESQL, FULL_STARTS, PLAIN)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A tmpfs of 256 MiB; None where it cannot be mounted."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        print("no tmpfs can be mounted here: the disk is never full", flush=True)
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """URL of a database on a server of its own; that of SQLite in the data folder where no server starts."""
    import pytest
    from postgresql import empty_database, server

    with ExitStack() as stack:
        try:
            url = empty_database(stack.enter_context(server(folder)), "node")
        except pytest.skip.Exception as exc:
            print(f"{exc}: SQLite instead", flush=True)
            url = ""
        yield url


def era(folder: Path, kind: str, kills: int, seed: int) -> None:
    """Run one; figures go into the file `figures` beside its folder, each time everything has come right."""
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]
    from crashing import Soak

    figures = folder.with_suffix(".figures")

    def checked(found: dict[str, Any]) -> None:
        new = figures.with_suffix(".new")
        new.write_text(json.dumps(found))
        new.rename(figures)

    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder.with_suffix(".disk"))) if kind == SMALL_DISK else None
        database = stack.enter_context(postgresql(folder.with_suffix(".pg"))) if kind == POSTGRESQL else ""
        data = disk / "data" if disk else None
        soak = Soak(folder, seed=seed, data=data, database=database, full_starts=kind == FULL_STARTS)
        stack.callback(soak.close)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: soak.stopped.set())
        try:
            soak.run(kills, checked=checked)
        except BaseException:
            print(soak.node.log[-20000:], flush=True)
            raise


class Eras:
    """Eras in processes of their own, some at once; what they have come to."""

    def __init__(self, folder: Path, chosen: argparse.Namespace) -> None:
        self._folder = folder
        self._chosen = chosen
        self._numbers = iter(range((chosen.kills + ERA - 1) // ERA))
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False
        self.failed: list[Path] = []

    def run(self) -> None:
        threads = [threading.Thread(target=self._one_after_the_other) for _ in range(self._chosen.at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(1.0)  # a signal is looked at in between

    def end(self) -> None:
        """Start no more, and let those that run come to an end."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.terminate()

    def figures(self) -> dict[int, dict[str, Any]]:
        found = sorted(self._folder.glob("*.figures"), key=lambda path: int(path.stem))
        return {int(path.stem): json.loads(path.read_text()) for path in found}

    def _kind(self, number: int) -> str:
        return KINDS[(self._chosen.seed + number) % len(KINDS)]

    def _one_after_the_other(self) -> None:
        while (process := self._begin_next()) is not None:
            number, running = process
            while running.poll() is None:
                time.sleep(0.5)
            with self._lock:
                self._running.discard(running)
            if running.returncode:
                self.failed.append(self._folder / f"{number}.log")
                self.end()
            found = json.dumps(self.figures().get(number, {}))
            print(f"era {number + 1} ({self._kind(number)}): {found}", flush=True)

    def _begin_next(self) -> tuple[int, subprocess.Popen[bytes]] | None:
        with self._lock:
            number = None if self._ended else next(self._numbers, None)
            if number is None:
                return None
            kills = min(ERA, self._chosen.kills - number * ERA)
            command = [sys.executable, __file__, "--era", str(self._folder / str(number)), "--kills", str(kills)]
            command += ["--kind", self._kind(number), "--seed", str(self._chosen.seed + number)]
            with (self._folder / f"{number}.log").open("wb") as log:
                # In a process group of its own: Ctrl-C is for this process to hand on, and not for the node.
                process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
            self._running.add(process)
            return number, process


def summed(all_figures: list[dict[str, Any]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for figures in all_figures:
        for name, value in figures.items():
            parts = value if isinstance(value, dict) else {"": value}
            total.update({f"{name}: {part}".removesuffix(": "): n for part, n in parts.items()})
    return dict(total)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=positive, default=1000)
    arguments.add_argument("--seed", type=seed, default=0)
    arguments.add_argument("--at-once", type=positive, default=2, help="nodes side by side")
    arguments.add_argument("--minutes", type=minutes, help="end after that long, whatever was reached")
    arguments.add_argument("--figures", type=Path, help="a file of earlier runs' figures: add these, and sum up all")
    arguments.add_argument("--era", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--kind", choices=set(KINDS), help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.era:
        era(chosen.era, chosen.kind, chosen.kills, chosen.seed)
        return
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    eras = Eras(folder, chosen)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: eras.end())
    if chosen.minutes:
        clock = threading.Timer(60.0 * chosen.minutes, eras.end)
        clock.daemon = True
        clock.start()
    eras.run()
    lines = [json.dumps(figures) for figures in eras.figures().values()]
    if chosen.figures:
        with chosen.figures.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        lines = chosen.figures.read_text().splitlines()
    took_s = time.monotonic() - begun
    print(f"\n{len(lines)} eras; this run took {took_s:.0f} s, seed {chosen.seed}, Python {platform.python_version()}")
    for name, value in summed([json.loads(line) for line in lines]).items():
        print(f"{value:8d} {name}")
    if eras.failed:
        print(f"FAILED: see {', '.join(map(str, eras.failed))}, and the folders beside; counted is what held before")
        sys.exit(1)
    shutil.rmtree(folder, ignore_errors=True)
    print("nothing acknowledged was lost; each study has exactly one current report; nothing waits")


if __name__ == "__main__":
    main()
