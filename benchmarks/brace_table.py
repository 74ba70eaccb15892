"""Brace removal against known answers: `python -m benchmarks.brace_table` writes docs/brace-removal.md and a picture.

About three minutes on one core. `--check` writes nothing and exits 1 if the robust mode misses a goal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from benchmarks import brace_things
from dtvit import brace, preprocess
from dtvit.ct import CTSlice
from dtvit.masking import robust
from dtvit.masking.morphology import Fast
from dtvit.phantom import PhantomSlice, PhantomSpec, draw, render_slice

DOCS = Path(__file__).resolve().parents[1] / "docs"
SEEDS = {101: "deep", 202: "lobar", 303: "subtentorial"}
SLICES = 16  # of each series, evenly from neck to beyond the vertex
THICK_MM = 5.0  # head parts thicker than this must be kept; skin over fat is thinner, and both modes drop it
LEAST_HOLDER_CM2 = 2.0  # a share of less is no share
LEAST_HEAD_CM2 = 3.0
GOALS = {"holder_mean": 1.0, "holder_worst": 5.0, "head_mean": 99.5, "brain_worst": 100.0}  # percent

SCAN = {"matrix": 512, "fov_mm": 250.0, "thickness_mm": 5.0, "spacing_mm": 5.0, "tilt_deg": 0.0, "age": 60.0}
QUIET = {"kernel": 0.4, "noise_hu": 3.5, "off_centre_mm": (0.0, 0.0)}
HOLDER = {"hand": False, "tubes": 0, "cushion": False, "shell_hu": 250.0, "gap_mm": 4.0}


@dataclass(frozen=True)
class Case:
    name: str
    shape: str
    holder: dict[str, Any]
    rest: dict[str, Any]
    thing: str = ""
    """One of `brace_things.THINGS`, painted into the slices."""

    def spec(self, seed: int) -> PhantomSpec:
        drawn = draw(seed, SEEDS[seed], shape=self.shape, **{**SCAN, **QUIET, **self.rest})
        return replace(drawn, holder=replace(drawn.holder, **{**HOLDER, **self.holder}))

    def series(self, seed: int) -> tuple[list[PhantomSlice], list[CTSlice]]:
        spec = self.spec(seed)
        truths, slices = slices_of(spec)
        if self.thing:
            middle = spec.head.centre_mm[2]
            truths = [
                brace_things.draw(t, self.thing, t.position_mm - middle, spec.scan.pixel_mm, seed) for t in truths
            ]
        return truths, [replace(s, hu=t.hu) for s, t in zip(slices, truths, strict=True)]


CASES = (
    Case("thin cup", "thin cup", {"gap_mm": 6.0}, {}),
    Case("thick cup (12 mm)", "thick cup", {"shell_mm": 12.0, "shell_hu": 100.0}, {}),
    Case("touching", "thin cup", {"gap_mm": 0.0}, {}),
    Case("fused to the skin", "thin cup", {"gap_mm": -4.0, "shell_mm": 4.0}, {}),
    Case("fused, thin scalp", "thin cup", {"gap_mm": -4.0, "shell_mm": 4.0}, {"scalp_mm": 2.8}),
    Case("thick and fused", "thick cup", {"gap_mm": -4.0, "shell_mm": 12.0, "shell_hu": 100.0}, {}),
    Case("U", "U", {"shell_mm": 4.0}, {}),
    Case("ring", "ring", {"shell_mm": 4.0}, {}),
    Case("ring, touching", "ring", {"gap_mm": -4.0, "shell_mm": 4.0, "side_mm": 3.0}, {}),
    Case("double cup with strut", "double cup", {"gap_mm": 2.0, "shell_mm": 4.0}, {}),
    Case("pillow", "pillow", {"gap_mm": 0.0, "cushion": True}, {}),
    Case("tubes and a hand", "thin cup", {"tubes": 3, "hand": True}, {}),
    Case("tilted gantry (22 degrees)", "thin cup", {"gap_mm": 0.0}, {"tilt_deg": 22.0}),
    Case("off-centre", "U", {"gap_mm": 0.0, "shell_mm": 4.0}, {"off_centre_mm": (35.0, 30.0)}),
    Case("child of three", "thin cup", {"gap_mm": 0.0, "shell_mm": 4.0}, {"age": 3.0}),
    Case("1024 matrix", "thin cup", {"gap_mm": 0.0, "shell_mm": 4.0}, {"matrix": 1024}),
    Case("256 matrix", "thin cup", {"gap_mm": 0.0, "shell_mm": 4.0}, {"matrix": 256}),
    Case(
        "thin, sharp, noisy slices",
        "thick cup",
        {"gap_mm": 0.0},
        {"thickness_mm": 1.25, "spacing_mm": 1.25, "kernel": 0.8, "noise_hu": 9.0},
    ),
    Case("tilted back (25 degrees), thick cup", "thick cup", {"gap_mm": 0.0, "shell_mm": 12.0}, {"tilt_deg": -25.0}),
    Case("vacuum cushion", "none", {}, {}, "vacuum cushion"),
    Case("foam wedge, strap over the forehead", "none", {}, {}, "wedge and strap"),
    Case("aneurysm clip with streaks, touching", "thin cup", {"gap_mm": 0.0}, {}, "clip"),
)
PRESSED = {"gap_mm": -10.0, "side_mm": 0.0}
BEYOND = (
    Case("shell pressed into a thin scalp", "thin cup", {**PRESSED, "shell_mm": 5.0}, {"scalp_mm": 2.8}),
    Case("ring pressed into a thin scalp", "ring", {**PRESSED, "shell_mm": 5.0}, {"scalp_mm": 2.8}),
    Case("slab of 14 mm pressed into a thin scalp", "thick cup", {**PRESSED, "shell_mm": 14.0}, {"scalp_mm": 2.8}),
    Case("gel crescent under the head", "none", {}, {}, "gel crescent"),
    Case("head frame, pins in the bone", "none", {}, {}, "frame with pins"),
    Case("cochlear implant with its coil", "none", {}, {}, "cochlear implant"),
    Case("fillings with streaks, touching", "thin cup", {"gap_mm": 0.0}, {}, "fillings"),
)
"""Where the ideas end: no goal is set, the table says how far they carry."""
PICTURED = (
    "thick cup (12 mm)",
    "fused to the skin",
    "ring pressed into a thin scalp",
    "shell pressed into a thin scalp",
    "off-centre",
    "1024 matrix",
    "thin, sharp, noisy slices",
    "vacuum cushion",
    "gel crescent under the head",
)
LEAST_PICTURED_CM2 = 3.0


@dataclass(frozen=True)
class Score:
    """Shares (0..1) for one slice; NaN where there is nothing to share."""

    holder: float
    head: float
    head_with_skin: float
    brain: float


def slices_of(spec: PhantomSpec) -> tuple[list[PhantomSlice], list[CTSlice]]:
    positions = spec.positions_mm[:: max(1, len(spec.positions_mm) // SLICES)]
    truths = [render_slice(spec, position) for position in positions]
    pixel_mm = spec.scan.pixel_mm, spec.scan.pixel_mm
    return truths, [
        CTSlice("", str(i), i, None, t.hu, pixel_mm, spec.scan.thickness_mm, t.position_mm, None, spec.scan.tilt_deg)
        for i, t in enumerate(truths)
    ]


def masks(slices: list[CTSlice], mode: str) -> list[npt.NDArray[np.bool_]]:
    """As the node makes them, second look over the series included."""
    first = [preprocess.prepare(s, mode) for s in slices]
    return [p.mask for p in preprocess.refine(slices, first, mode)]


def score(truth: PhantomSlice, mask: npt.NDArray[np.bool_], pixel_mm: tuple[float, float]) -> Score:
    by, cm2 = Fast(), pixel_mm[0] * pixel_mm[1] / 100.0
    visible = truth.hu > robust.LEVEL_HU
    head = visible & truth.head
    thick = by.dilate(by.erode(head, THICK_MM / 2, pixel_mm), THICK_MM / 2, pixel_mm)

    def share(of: npt.NDArray[np.bool_], least_cm2: float) -> float:
        return float((of & mask).sum() / of.sum()) if of.sum() * cm2 >= least_cm2 else float("nan")

    return Score(
        share(visible & truth.holder, LEAST_HOLDER_CM2),
        share(thick, LEAST_HEAD_CM2),
        share(head, LEAST_HEAD_CM2),
        share(truth.brain, 0.5),
    )


def measure(case: Case) -> dict[str, list[Score]]:
    scores: dict[str, list[Score]] = {mode: [] for mode in brace.MODES}
    for seed in SEEDS:
        truths, slices = case.series(seed)
        for mode in brace.MODES:
            found = zip(truths, slices, masks(slices, mode), strict=True)
            scores[mode] += [score(truth, mask, s.pixel_mm) for truth, s, mask in found]
    return scores


def summary(scores: list[Score]) -> dict[str, float]:
    """Percent."""

    def column(name: str) -> npt.NDArray[np.float64]:
        values = np.array([getattr(s, name) for s in scores])
        return values[~np.isnan(values)] * 100.0

    holder, head, skin, brain = (column(n) for n in ("holder", "head", "head_with_skin", "brain"))
    return {
        "holder_mean": float(holder.mean()),
        "holder_worst": float(holder.max()),
        "head_mean": float(head.mean()),
        "head_worst": float(head.min()),
        "skin_mean": float(skin.mean()),
        "brain_worst": float(brain.min()),
    }


def missed(row: dict[str, float]) -> list[str]:
    """Names of the goals that a row misses."""
    return [
        name for name, goal in GOALS.items() if (row[name] > goal if name.startswith("holder") else row[name] < goal)
    ]


def lines(table: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    yield "| case | mode | holder left, mean | worst | head kept, mean | worst | with the skin | brain, worst |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, modes in table.items():
        for mode, row in modes.items():
            marked = {key: f"{value:.2f}" for key, value in row.items()}
            for key in missed(row) if mode == "robust" else ():
                marked[key] = f"**{marked[key]}**"
            yield f"| {name} | {mode} | " + " | ".join(marked[k] for k in row) + " |"


def pictures(path: Path) -> None:
    """One row a case, the slice where the modes differ most: in the brain window, after paper, after robust."""
    side = 224
    sheet = Image.new("L", (3 * side, len(PICTURED) * side))
    pen = ImageDraw.Draw(sheet)
    by_name = {case.name: case for case in CASES + BEYOND}
    for row, name in enumerate(PICTURED):
        truths, slices = by_name[name].series(202)
        paper, robustly = (masks(slices, mode) for mode in brace.MODES)
        differ = [_difference(*three, slices[0].pixel_mm) for three in zip(truths, paper, robustly, strict=True)]
        most = differ.index(max(differ))
        shown = (np.ones(truths[most].hu.shape, np.bool_), paper[most], robustly[most])
        for column, mask in enumerate(shown):
            image = Image.fromarray(preprocess.picture(truths[most].hu, mask)).resize((side, side))
            sheet.paste(image, (column * side, row * side))
            pen.text((column * side + 4, row * side + 4), (name, *brace.MODES)[column], fill=255)
    sheet.save(path, optimize=True)


def _difference(
    truth: PhantomSlice, one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], pixel_mm: tuple[float, float]
) -> int:
    """In how many visible pixels of holder and brain two masks differ; 0 for a slice with hardly any head."""
    if truth.head.sum() * pixel_mm[0] * pixel_mm[1] < 100.0 * LEAST_PICTURED_CM2:
        return 0
    return int(((one ^ other) & (truth.holder | truth.brain) & (truth.hu > robust.LEVEL_HU)).sum())


def tabulate(cases: tuple[Case, ...]) -> dict[str, dict[str, dict[str, float]]]:
    table = {}
    for case in cases:
        table[case.name] = {mode: summary(scores) for mode, scores in measure(case).items()}
        print(f"{case.name}: {table[case.name]['robust']}", flush=True)
    return table


def main() -> int:
    table = tabulate(CASES)
    misses = {name: missed(modes["robust"]) for name, modes in table.items() if missed(modes["robust"])}
    print(f"{len(CASES)} cases, {len(misses)} miss a goal: {misses}")
    if "--check" in sys.argv[1:]:
        return 1 if misses else 0
    text = (Path(__file__).parent / "brace_table.md").read_text(encoding="utf-8")
    said = "; ".join(f"{name} ({', '.join(what)})" for name, what in misses.items()) or "none"
    text = text.replace("{table}", "\n".join(lines(table))).replace("{misses}", said)
    text = text.replace("{beyond}", "\n".join(lines(tabulate(BEYOND))))
    (DOCS / "brace-removal.md").write_text(text, encoding="utf-8")
    pictures(DOCS / "pictures" / "brace-removal.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
