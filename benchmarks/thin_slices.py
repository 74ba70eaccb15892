"""What the same synthetic heads come out as in slices of 5, 2.5 and 1 mm: each slice alone and two neighbours of any
thickness, and as the node judges them, in slabs and over millimetres (docs/decisions/0017).

    .venv/bin/python benchmarks/thin_slices.py [--heads 0,1,2] [--checkpoint FILE]

Each head is rendered without a bleed and with one of 0.5, 1, 2 or 5 ml in turn; the noise is what the same dose gives
in slices of that thickness. A head of 1 mm takes some fifteen seconds on one core. docs/shipped-checkpoint.md tells
the last figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtvit import brace, phantom, preprocess, slabs
from dtvit.brain.regions import assign_regions
from dtvit.brain.selection import classify_content
from dtvit.findings import LOCATIONS, Outcome, Region, SliceFinding, series_output
from dtvit.inference import Classifier

SEED = 920000  # and on: in no training
HEADS = "0,1,2,3,4,12,13,14,15,16"
VOLUMES_ML = (0.5, 1.0, 2.0, 5.0)
THICKNESSES_MM = (5.0, 2.5, 1.0)
MATRIX = 256

Slice = NDArray[np.float32]


def finding(position_mm: float | None, presence: float) -> SliceFinding:
    return SliceFinding("", "", None, position_mm, Region.BRAIN, Outcome.UNDETERMINED, presence)


def outputs(model: Classifier, spec: phantom.Spec) -> tuple[float | None, float | None]:
    """Of the series: by single slices and pairs of neighbours, and as the node judges it."""
    places, pixel_mm = list(spec.positions_mm), (spec.scan.pixel_mm,) * 2
    hu = [phantom.render_slice(spec, place).hu for place in places]
    masks = [brace.find_head(one, pixel_mm).mask for one in hu]
    regions = assign_regions([classify_content(one, mask, pixel_mm) for one, mask in zip(hu, masks, strict=True)])
    brain = [i for i, region in enumerate(regions) if region is Region.BRAIN]
    around = slabs.weights(places, [spec.scan.thickness_mm] * len(places))
    seen = [sum((np.float32(w) * hu[j] for j, w in around[i].items()), np.zeros_like(hu[i])) for i in brain]

    def presences(slices: Sequence[Slice]) -> list[float]:
        geometry = preprocess.geometry_of(model.checkpoint.metadata.preprocessing)
        pictures = [preprocess.picture(one, masks[i]) for i, one in zip(brain, slices, strict=True)]
        found: list[float] = model.predict(
            np.stack([preprocess.model_input(each, geometry) for each in pictures])
        ).presence.tolist()
        return found

    alone, together = presences([hu[i] for i in brain]), presences(seen)
    in_place = [finding(places[i], each) for i, each in zip(brain, together, strict=True)]
    return series_output([finding(None, each) for each in alone]), series_output(in_place)


def heads(number: int) -> Iterator[tuple[str, dict[float, phantom.Spec]]]:
    """The head without a bleed and with one, in each thickness."""
    volume, place = VOLUMES_ML[number % len(VOLUMES_ML)], LOCATIONS[number // len(VOLUMES_ML) % len(LOCATIONS)]
    for name, bleed, more in (("none", None, {}), (f"{volume:g} ml", place, {"volume_ml": volume})):
        yield (
            name,
            {
                mm: phantom.draw(SEED + number, bleed, matrix=MATRIX, thickness_mm=mm, spacing_mm=mm, **more)
                for mm in THICKNESSES_MM
            },
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default=HEADS, help=f"comma-separated numbers (default {HEADS})")
    parser.add_argument("--checkpoint", type=Path, help="instead of the shipped one")
    given = parser.parse_args()
    model = Classifier.load(given.checkpoint, "cpu", precision="auto")
    print(f"series: {model.checkpoint.metadata.series_thresholds}")
    print("| head | bleed | " + " | ".join(f"{mm:g} mm: alone | as judged" for mm in THICKNESSES_MM) + " |")
    print("| --- | --- |" + " --- | --- |" * len(THICKNESSES_MM))
    for number in map(int, given.heads.split(",")):
        for bleed, specs in heads(number):
            cells = [f"{alone:.3f} | {judged:.3f}" for alone, judged in (outputs(model, s) for s in specs.values())]
            print(f"| {number} | {bleed} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
