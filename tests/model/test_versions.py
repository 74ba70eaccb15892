"""What the name of a version stands for.

Slices are kept, and checkpoints trained, by the name that `preprocess.preprocessing` gives: a mask or a measure that
becomes another one under the same name mixes two treatments in one result. Where one is to change, so is the name
(`brace.VERSIONS`); run this file to print what then stands here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dtvit import brace, preprocess
from dtvit.brain.selection import SliceContent, classify_content
from dtvit.ct import CTSlice
from dtvit.masking import robust
from dtvit.masking.morphology import Fast
from dtvit.phantom import PhantomSlice, PhantomSpec, draw, render_slice

SCAN: dict[str, Any] = {"matrix": 256, "fov_mm": 250.0, "thickness_mm": 5.0, "spacing_mm": 5.0, "tilt_deg": 0.0}
QUIET = SCAN | {"age": 60.0, "kernel": 0.4, "noise_hu": 3.5}
PLAIN = {"hand": False, "tubes": 0, "cushion": False, "shell_hu": 250.0, "gap_mm": 4.0}
NOISY = {"kernel": 0.9, "noise_hu": 14.0, "thickness_mm": 1.25}
THIN_SCALP: dict[str, Any] = {"gap_mm": -10.0, "shell_mm": 5.0, "side_mm": 0.0, "scalp_mm": 2.8}
CHILD: dict[str, Any] = {"seed": 11, "age": 3.0}

Pixels = npt.NDArray[np.float32]
Change = Callable[[Pixels, PhantomSlice, float], Pixels]


def head(shape: str, seed: int = 101, location: str | None = "deep", **changed: Any) -> PhantomSpec:
    return draw(seed, location, shape=shape, **QUIET | PLAIN | changed)


def gel(hu: Pixels, truth: PhantomSlice, pixel_mm: float) -> Pixels:
    """Soft padding moulded to the back of the head."""
    away = Fast().depth(~truth.head, (pixel_mm, pixel_mm))
    padding = (away > 0.0) & (away < 25.0)
    padding[: int(0.65 * len(padding))] = False
    return np.where(padding, np.float32(35.0), hu)


def opened(hu: Pixels, _: PhantomSlice, __: float) -> Pixels:
    """Without a good part of the skull on one side."""
    rows, columns = np.ogrid[: hu.shape[0], : hu.shape[1]]
    gone = (columns < 107) & (np.abs(rows - 127.5) < 40) & (hu > 150.0)
    return np.where(gone, np.float32(40.0), hu)


def in_a_circle(hu: Pixels, _: PhantomSlice, __: float) -> Pixels:
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in hu.shape)
    return np.where(np.hypot(rows[:, None], columns) > len(hu) / 2, np.float32(-1024.0), hu)


CHANGES: dict[str, Change] = {
    "gel": gel,
    "opened": opened,
    "circle": in_a_circle,
    "narrow": lambda hu, *_: hu[:, 60:200],
    "low": lambda hu, *_: hu[40:200],
    "dim": lambda hu, *_: np.minimum(hu, 60.0),
    "oblong": lambda hu, *_: hu[::2],
    "intercept lost": lambda hu, *_: np.maximum(hu, -1024.0) + 1024.0,
    "intercept twice": lambda hu, *_: np.maximum(hu - 1024.0, -1024.0),
}
SLICES: dict[str, tuple[PhantomSpec, tuple[float, ...]]] = {
    "touching": (head("thin cup", gap_mm=-4.0, shell_mm=4.0), (0.15, 0.5)),
    "thick": (head("thick cup", shell_mm=12.0, shell_hu=100.0), (0.25, 0.7, 0.93)),
    "hand": (head("U", hand=True, tubes=3), (0.05, 0.35, 0.97)),
    "fused": (head("ring", gap_mm=-6.0, side_mm=0.0), (0.35, 0.85)),
    "pillow": (head("pillow", cushion=True, gap_mm=0.0), (0.25,)),
    "none": (head("none", 7, "lobar"), (0.15, 0.97)),
    "thin scalp": (head("thin cup", **THIN_SCALP), (0.3, 0.35, 0.4)),
    "noisy": (head("thick cup", **NOISY), (0.3, 0.9)),
    "noisy 512": (head("thick cup", **NOISY, matrix=512), (0.9,)),
    "sharp 512": (head("thin cup", 5, None, noise_hu=9.0, kernel=0.7, matrix=512), (0.5, 0.8)),
    "child": (head("U", **CHILD), (0.25, 0.7)),
    "tilted": (head("thin cup", 12, tilt_deg=18.0), (0.35,)),
    **{
        f"drawn {seed}": (draw(seed, None, **SCAN), at)
        for seed, at in ((21, (0.2,)), (22, (0.1,)), (23, (0.03, 0.95)), (24, (0.3,)), (25, (0.99,)))
    },
    "gel": (head("none"), (0.5,)),
    "opened": (head("none"), (0.6,)),
    "circle": (head("thin cup", 40, fov_mm=170.0), (0.2, 0.4)),
    "narrow": (head("none"), (0.3, 0.5)),
    "low": (head("thin cup"), (0.3,)),
    "dim": (head("thin cup"), (0.4,)),
    "oblong": (head("thin cup"), (0.6,)),
    "intercept lost": (head("thin cup"), (0.4,)),
    "intercept twice": (head("thin cup"), (0.6,)),
}
SERIES = {"child with a hand": head("U", **CHILD, hand=True)}
BY_PAPER = ("touching 0.5", "none 0.15", "sharp 512 0.5", "dim 0.4", "intercept lost 0.4")
FLAGS = {robust.NO_HEAD: "N", robust.SEVERAL: "S", robust.CUT: "C", robust.LYING: "L", robust.FOLLOWED: "F"}

# Pixels of the mask, its flags, and the fields of SliceContent in their order.
STANDS_FOR = """
robust: touching 0.15 = 18961 - 173.12 11.84 1 30.72 130.64 0 0 0 0 3.37
robust: touching 0.5 = 21914 - 211.56 161.6 1 28.23 166.08 0 0 0 0 2.77
paper: touching 0.5 = 21899 - 211.44 161.6 1 28.23 165.92 0 0 0 0 2.77
robust: thick 0.25 = 20991 - 180.48 33.92 0.97 32.21 119.04 0 0 0 0 3.19
robust: thick 0.7 = 18782 - 181.44 127.12 1 29.18 130.76 0 0 0 0 2.96
robust: thick 0.93 = 5005 S 52.04 0 0 0 29.2 0 0 0 0 1.73
robust: hand 0.05 = 17716 - 169.92 0 0 0 144.6 0 0 0 0 3.26
robust: hand 0.35 = 22233 - 206.16 78.72 1 33.28 106.68 0 0 0 0 3.08
robust: hand 0.97 = 348 S 3.88 0 0 0 0.52 0 0 0 0 0
robust: fused 0.35 = 22233 - 206.16 78.72 1 33.28 106.64 0 0 0 0 3.09
robust: fused 0.85 = 10959 - 107.08 39.24 1 29.85 43.16 0 0 0 0 3.13
robust: pillow 0.25 = 20991 - 180.48 33.92 0.97 32.21 119.04 0 0 0 0 3.19
robust: none 0.15 = 19233 - 172.52 0 0 0 134.68 0 0 0 0 3.23
paper: none 0.15 = 16078 - 153.88 0 0 0 123.52 0 0 0 0 3.1
robust: none 0.97 = 0 N 0 0 0 0 0 0 0 0 0 0
robust: thin scalp 0.3 = 22471 - 193.96 71.76 0.95 35.42 99.6 0 0 0 0 3.03
robust: thin scalp 0.35 = 23089 C 214.2 78.72 1 33.31 113.52 0 0 0 0 3.21
robust: thin scalp 0.4 = 22688 C 216.28 116.16 1 28.84 143.28 0 0 0 0 3.14
robust: noisy 0.3 = 21949 - 201.88 63.2 0.91 33.38 98.84 0 0 0 0 7.84
robust: noisy 0.9 = 5602 - 54.96 0 0 0 15.44 0 0 0 0 13.01
robust: noisy 512 0.9 = 24386 - 60.08 0 0 0 18.44 0 0 0 0 13.32
robust: sharp 512 0.5 = 88757 - 215.24 134.76 1 28.06 158.08 0 0 0 0 5.11
paper: sharp 512 0.5 = 82948 - 202.08 134.76 1 28.06 150.52 0 0 0 0 5
robust: sharp 512 0.8 = 47515 C 115.68 64.24 1 29.67 68.64 0 0 0 0 5.18
robust: child 0.25 = 20217 - 185.48 44.44 0.95 33.07 79.04 0 0 0 0 3.32
robust: child 0.7 = 15954 - 154.64 122.8 1 29.17 125.76 0 0 0 0 2.8
robust: tilted 0.35 = 26096 - 249.8 139 1 29.82 173.28 0 0 0 0 2.98
robust: drawn 21 0.2 = 26056 - 241.88 64.04 0.82 32.09 125.56 0 0 0 0 3.03
robust: drawn 22 0.1 = 16047 - 153.48 2.84 0.77 28.16 132.6 0 0 0 0 2.73
robust: drawn 23 0.03 = 16752 - 161.2 0 0 0 149.36 0 0 0 0 2.44
robust: drawn 23 0.95 = 649 S 7.64 0 0 0 2.68 0 0 0 0 0
robust: drawn 24 0.3 = 23628 - 224.32 58.56 0.97 31.61 110.28 0 0 0 0 4.71
robust: drawn 25 0.99 = 330 C 3.56 0 0 0 1.48 0 0 0 0 0
robust: gel 0.5 = 28919 L 278.6 161.6 1 28.23 224.12 0 0 0 0 0.55
robust: opened 0.6 = 21046 - 203.84 96.92 0 27.6 162.04 0 0 0 0 2.75
robust: circle 0.2 = 38029 - 168.84 51.6 0.7 34.31 115.68 2.2 0 0 0 3.22
robust: circle 0.4 = 42474 - 189.76 117.52 1 28.74 134.36 6.8 0 66.41 0 2.95
robust: narrow 0.3 = 22091 - 199.93 64.54 0.95 33.97 87.34 8.52 0 0 0 2.89
robust: narrow 0.5 = 21508 - 207.65 161.73 1 28.21 164.75 28.67 0 0 0 2.77
robust: low 0.3 = 19512 - 184.78 63.14 0.92 33.87 81.97 6.09 0 0 0 3.3
robust: dim 0.4 = 22261 - 212 0 0 0 191.52 0 0 0 0 2.48
paper: dim 0.4 = 19579 - 190.4 0 0 0 181.64 0 0 0 0 2.15
robust: oblong 0.6 = 10528 - 205.12 151.72 1 28.07 154.6 6.52 0 0 0 2.89
robust: intercept lost 0.4 = 65536 - 625 21.76 0.09 24.24 365.36 0 0 0 1024 1.08
paper: intercept lost 0.4 = 65280 - 625 21.76 0.09 24.24 360.36 0 0 0 1024 1.11
robust: intercept twice 0.6 = 0 N 0 0 0 0 0 0 0 0 -1024 0
series: child with a hand 0 = 16610 - 153.84 2.2 1 33.42 114.44 0 0 0 0 3.44
series: child with a hand 1 = 18032 F 159.56 5.92 1 31.28 131.2 0 0 0 0 3.08
series: child with a hand 2 = 17444 F 166.76 22.08 0.6 34.97 128.48 0 0 0 0 3.09
series: child with a hand 3 = 18270 F 176.72 54.28 0.84 38.63 91.16 0 0 0 0 3.45
series: child with a hand 4 = 20264 - 188.56 56.4 0.95 31.2 88.08 0 0 0 0 3.3
series: child with a hand 5 = 19808 - 190.92 96.36 0.99 31.54 116.52 0 0 0 0 2.89
series: child with a hand 6 = 19496 - 188.24 139.32 0.88 29.43 144.8 0 0 0 0 2.91
series: child with a hand 7 = 19438 - 187.92 155.2 0.87 28.53 161 0 0 0 0 2.69
series: child with a hand 8 = 19108 - 184.6 152.6 0.99 29.03 157.76 0 0 0 0 2.67
series: child with a hand 9 = 18337 - 177.4 145.16 1 29.06 150.24 0 0 0 0 2.6
series: child with a hand 10 = 16976 - 164.6 131.76 1 29.19 136.56 0 0 0 0 2.75
series: child with a hand 11 = 14904 - 144.4 111.68 1 28.98 115.64 0 0 0 0 2.69
series: child with a hand 12 = 12279 - 119.68 83.6 1 30.17 87.64 0 0 0 0 2.79
series: child with a hand 13 = 8444 - 82.44 45.48 1 31.78 48.48 0 0 0 0 2.69
series: child with a hand 14 = 3822 - 37.8 0 0 0 2 0 0 0 0 0
series: child with a hand 15 = 0 FN 0 0 0 0 0 0 0 0 0 0
"""


def whole(hu: Pixels) -> Pixels:
    """As a scanner stores it: what differs in the last digit from machine to machine is the same."""
    return np.ascontiguousarray(np.rint(hu), np.float32)


def slices() -> Iterator[tuple[str, Pixels, tuple[float, float]]]:
    for name, (spec, heights) in SLICES.items():
        for at in heights:
            truth = render_slice(spec, spec.positions_mm[int(at * (len(spec.positions_mm) - 1))])
            hu, mm = whole(truth.hu), spec.scan.pixel_mm
            if name in CHANGES:
                hu = whole(CHANGES[name](hu, truth, mm))
            yield f"{name} {at}", hu, (mm * (spec.scan.matrix / len(hu) if name == "oblong" else 1.0), mm)


def measured(found: brace.HeadMask, content: SliceContent) -> tuple[float | str, ...]:
    flags = "".join(FLAGS[flag] for flag in found.flags)
    return (int(found.mask.sum()), flags or "-", *(round(float(value), 2) for value in astuple(content)))


def found() -> dict[str, tuple[float | str, ...]]:
    every = {}
    for name, hu, pixel_mm in slices():
        for mode in brace.MODES[-1:] + brace.MODES[:1] * (name in BY_PAPER):
            mask = brace.find_head(hu, pixel_mm, mode)
            content = classify_content(hu, mask.mask, pixel_mm, preprocess.shown(hu.shape))
            every[f"{mode}: {name}"] = measured(mask, content)
    for name, spec in SERIES.items():
        mm = spec.scan.pixel_mm
        of_series = [
            CTSlice("1", str(i), i, None, whole(render_slice(spec, at).hu), (mm, mm), 5.0, at, (1, 0, 0, 0, 1, 0), 0.0)
            for i, at in enumerate(spec.positions_mm[::2])
        ]
        for i, one in enumerate(preprocess.refine(of_series, [preprocess.prepare(s) for s in of_series])):
            every[f"series: {name} {i}"] = measured(one.head, one.content)
    return every


def test_masks_and_measures_are_those_that_the_version_stands_for() -> None:
    assert [preprocess.preprocessing(mode).split("/")[1] for mode in brace.MODES] == ["paper-1", "robust-1"]
    known = dict(line.rsplit(" = ", 1) for line in STANDS_FOR.split("\n") if line)
    now = found()
    assert known.keys() == now.keys()
    differ = {}
    for name, (pixels, flags, *content) in now.items():
        expected_pixels, expected_flags, *expected = known[name].split()
        if (
            flags != expected_flags
            or abs(float(pixels) - float(expected_pixels)) > 4
            or content != pytest.approx([float(value) for value in expected], rel=0.01, abs=0.02)
        ):
            differ[name] = (known[name], now[name])
    assert not differ


if __name__ == "__main__":
    for name, values in found().items():
        sys.stdout.write(" ".join([name, "=", *(v if isinstance(v, str) else f"{v:.8g}" for v in values)]) + "\n")
