"""How fast brace removal is: `python -m benchmarks.brace` prints milliseconds of one core a slice, by mode and matrix.

The fast paths must give the reference's masks; the least Dice is printed, and the exit status is 1 below 0.999.
`--device cuda` (or cpu) measures the batched path of the paper mode there instead, held to the same masks. That needs
neither pydicom nor scikit-image.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from dtvit import brace, preprocess
from dtvit.brain.selection import classify_content
from dtvit.masking import retracing, robust
from dtvit.phantom import PhantomSpec, draw, render_slice

if TYPE_CHECKING:
    from dtvit.ct import CTSlice

SLICES = 12
REPEATS = 5
BATCHES = ((256, 64), (512, 64), (512, 256), (1024, 32))  # matrix, slices
LEAST_DICE = 0.999

Mask = npt.NDArray[np.bool_]


def places(matrix: int) -> list[tuple[PhantomSpec, float]]:
    """Three phantoms from neck to vertex, 250 mm wide, and where they are cut."""
    found = []
    for seed, location in ((11, "deep"), (12, "lobar"), (13, None)):
        spec = draw(seed, location, matrix=matrix, fov_mm=250.0, thickness_mm=5.0)
        positions = spec.positions_mm[:: max(1, len(spec.positions_mm) // (SLICES // 3))]
        found += [(spec, position) for position in positions]
    return found


def slices_of(matrix: int) -> list[CTSlice]:
    from dtvit.ct import CTSlice

    found = []
    for spec, position in places(matrix):
        hu, pixel_mm = render_slice(spec, position).hu, (spec.scan.pixel_mm, spec.scan.pixel_mm)
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


def shows(slices: list[CTSlice]) -> Callable[[CTSlice], object]:
    """What a slice shows, its head being known."""
    heads = {id(s): robust.decide(s.hu, s.pixel_mm).mask for s in slices}
    return lambda s: classify_content(s.hu, heads[id(s)], s.pixel_mm)


def dice(a: Mask, b: Mask) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum())) if a.any() or b.any() else 1.0


def on_device(device: str) -> int:
    """Milliseconds of wall clock a slice, without and with the way there and back."""
    import torch

    from dtvit import batched

    on_gpu = device.startswith("cuda")
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name(device) if on_gpu else device}")
    worst = 1.0
    print("| matrix | slices at once | paper, batched ms | with transfer ms | least Dice |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for matrix, batch in BATCHES:
        pictures = [render_slice(spec, position).hu for spec, position in places(matrix)]
        hu = torch.from_numpy(np.stack([pictures[i % len(pictures)] for i in range(batch)]))
        hu = hu.pin_memory() if on_gpu else hu
        there = hu.to(device)
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(REPEATS + 1):  # the first is for warming up
            for transfer in times:
                start = time.perf_counter()
                masks = batched.paper(hu.to(device)).cpu() if transfer else batched.paper(there)
                if on_gpu:
                    torch.cuda.synchronize()
                times[transfer].append((time.perf_counter() - start) * 1000.0 / batch)
        wanted = [brace.paper(picture) for picture in pictures]
        least = min(dice(mask.numpy(), wanted[i % len(wanted)]) for i, mask in enumerate(masks.cpu()))
        worst = min(worst, least)
        alone, whole = (min(values[1:]) for values in times.values())
        print(f"| {matrix} | {batch} | {alone:.4f} | {whole:.4f} | {least:.4f} |", flush=True)
    return 0 if worst >= LEAST_DICE else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="measure the batched path on this torch device instead")
    device = parser.parse_args().device
    return on_core() if device is None else on_device(device)


def on_core() -> int:
    from dtvit.masking.morphology import Reference

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
            content_ms = milliseconds(shows(slices), slices)
            traces = [robust.decide(s.hu, s.pixel_mm).trace for s in slices]
            start = time.thread_time()
            retracing.retrace(traces)
            again_ms = (time.thread_time() - start) * 1000.0 / len(slices)
    print(f"what a slice shows, 512: {content_ms:.2f} ms; its whole preparation: {whole_ms:.2f} ms")
    print(f"second look over the series: {again_ms:.2f} ms a slice")
    return 0 if worst >= LEAST_DICE else 1


if __name__ == "__main__":
    raise SystemExit(main())
