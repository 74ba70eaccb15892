"""How fast brace removal is: `python -m benchmarks.brace` prints milliseconds of one core a slice, by mode and matrix.

The fast paths must give the reference's masks; the least Dice is printed, and the exit status is 1 below 0.999.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from dtvit import brace, preprocess, robust
from dtvit.ct import CTSlice
from dtvit.morphology import Reference
from dtvit.phantom import draw, render_slice

SLICES = 12
REPEATS = 5
LEAST_DICE = 0.999

Mask = npt.NDArray[np.bool_]


def slices_of(matrix: int) -> list[CTSlice]:
    """Slices of three phantoms from neck to vertex, 250 mm wide."""
    found = []
    for seed, location in ((11, "deep"), (12, "lobar"), (13, None)):
        spec = draw(seed, location, matrix=matrix, fov_mm=250.0, thickness_mm=5.0)
        pixel_mm = spec.scan.pixel_mm, spec.scan.pixel_mm
        for position in spec.positions_mm[:: max(1, len(spec.positions_mm) // (SLICES // 3))]:
            hu = render_slice(replace(spec, bleed=spec.bleed), position).hu
            found.append(CTSlice("", "", None, None, hu, pixel_mm, 5.0, position, None, 0.0))
    return found


def milliseconds(find: Callable[[CTSlice], object], slices: list[CTSlice], repeats: int = REPEATS) -> float:
    """Median over the slices of the best of `repeats`, in processor time of this thread."""
    times = []
    for one in slices:
        best = float("inf")
        for _ in range(repeats):
            start = time.thread_time()
            find(one)
            best = min(best, time.thread_time() - start)
        times.append(best * 1000.0)
    return statistics.median(times)


def dice(a: Mask, b: Mask) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum())) if a.any() or b.any() else 1.0


def main() -> int:
    cv2.setNumThreads(1)
    reference = Reference()
    modes: dict[str, tuple[Callable[[CTSlice], Mask], Callable[[CTSlice], Mask]]] = {
        "paper": (lambda s: brace.paper(s.hu), lambda s: brace.paper_reference(s.hu)),
        "robust": (
            lambda s: robust.decide(s.hu, s.pixel_mm).mask,
            lambda s: robust.decide(s.hu, s.pixel_mm, by=reference).mask,
        ),
    }
    worst = 1.0
    print("| matrix | mode | reference ms | served ms | ratio | least Dice |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for matrix in (256, 512, 1024):
        slices = slices_of(matrix)
        for mode, (fast, slow) in modes.items():
            least = min(dice(fast(s), slow(s)) for s in slices)
            worst = min(worst, least)
            slow_ms, fast_ms = milliseconds(slow, slices, 1), milliseconds(fast, slices)
            print(f"| {matrix} | {mode} | {slow_ms:.1f} | {fast_ms:.2f} | {slow_ms / fast_ms:.1f} | {least:.4f} |")
        if matrix == 512:
            whole_ms = milliseconds(preprocess.prepare, slices)
            traces = [robust.decide(s.hu, s.pixel_mm).trace for s in slices]
            start = time.thread_time()
            robust.retrace(traces)
            again_ms = (time.thread_time() - start) * 1000.0 / len(slices)
    print(
        f"whole preparation of a slice, 512: {whole_ms:.2f} ms; second look over the series: {again_ms:.2f} ms a slice"
    )
    return 0 if worst >= LEAST_DICE else 1


if __name__ == "__main__":
    raise SystemExit(main())
