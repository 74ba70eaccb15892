"""`make soak`: a thousand kills (SOAK_KILLS) in eras of a hundred, each with a node of its own; prints the figures.

Every second era keeps the node's data on a small tmpfs, which is filled now and then; that needs the right to mount.
Exit status 0 means that nothing acknowledged was lost, that each study has one current report, and that nothing waits.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

ERA = 100


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


def era(folder: Path, kills: int, seed: int, *, on_tmpfs: bool) -> dict[str, Any]:
    from crashing import Soak

    with small_disk(folder.with_suffix(".disk")) as disk:
        soak = Soak(folder, seed=seed, data=disk / "data" if disk and on_tmpfs else None)
        try:
            soak.run(kills, say=lambda line: print(f"  {line}", flush=True))
            return soak.figures()
        except BaseException:
            print(soak.node.log[-20000:], flush=True)
            raise
        finally:
            soak.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=0)
    chosen = arguments.parse_args()
    begun = time.monotonic()
    total: Counter[str] = Counter()
    done = 0
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        for number in range((chosen.kills + ERA - 1) // ERA):
            kills = min(ERA, chosen.kills - done)
            figures = era(Path(folder) / str(number), kills, chosen.seed + number, on_tmpfs=number % 2 == 1)
            done += figures["kills"]
            for name, value in figures.items():
                parts = value if isinstance(value, dict) else {"": value}
                total.update({f"{name} {part}".strip(): n for part, n in parts.items() if isinstance(n, int)})
            print(f"era {number + 1}: {json.dumps(figures)}", flush=True)
    print(f"\n{done} kills in {time.monotonic() - begun:.0f} s, seed {chosen.seed}, Python {platform.python_version()}")
    for name, value in total.items():
        print(f"{value:8d} {name}")
    print("nothing acknowledged was lost; each study has exactly one current report; nothing waits")


if __name__ == "__main__":
    main()
