"""The pictures of docs/reading-the-report.md: phantoms, with outputs made up for the page; no network is asked.

python docs/pictures/make.py              writes example-*.png beside itself (about a minute on one core)
python docs/pictures/make.py --dicom DIR  also CT series, report and Secondary Capture of each, for a viewer
"""

from __future__ import annotations

import argparse
import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from dicom_node import scanner, uids
from dicom_node.report import capture, picture, provenance, sr
from dicom_node.report.context import Algorithm, Reference, ReportContext
from dtvit import phantom
from dtvit.findings import LOCATIONS, Coverage, Outcome, Region, SeriesFindings, SliceFinding, Thresholds, conclude

HERE = Path(__file__).resolve().parent
WHEN = datetime(2026, 3, 2, 9, 15, tzinfo=UTC)
SUPINE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
THRESHOLDS = Thresholds(absent_below=0.3, present_at=0.6)
NOTICE = "NOT FOR CLINICAL USE. Example for the documentation: a phantom, and outputs that were made up."
EXAMPLES: dict[str, tuple[str, ...]] = {
    "deep": ("deep",), "lobar": ("lobar",), "subtentorial": ("subtentorial",),
    "absent": (), "undetermined": ("deep",), "gap": (), "not-evaluated": (),
    "several": ("deep", "lobar"), "partial": ("lobar",), "second": ("deep",),
}  # fmt: skip
"""Example -> where its phantom bleeds."""
MISSING = 9  # images at the vertex that the partial example lacks


def outputs(made: phantom.Phantom, kind: str) -> list[float]:
    """What a network might have said: high where there is blood, or doubtful all over the bleed."""
    blood = made.blood.sum(axis=(1, 2), dtype=np.float64)
    share = blood / max(float(blood.max()), 1e-9)
    peak = 0.46 if kind == "undetermined" else 0.985
    rng = np.random.default_rng(len(kind))
    return [float(v) for v in 0.01 + 0.04 * rng.random(len(share)) + (peak - 0.05) * np.minimum(1.0, 3.0 * share)]


def found(made: phantom.Phantom, kind: str, uid: list[str], where: list[str | None]) -> SeriesFindings:
    """`where`: the place of the blood in each slice."""
    brain = made.brain.sum(axis=(1, 2)) * made.pixel_mm[0] ** 2 / 100.0  # cm2
    middle = int(np.argmax(brain))
    count = len(brain) - (MISSING if kind == "partial" else 0)
    slices = []
    for i, presence in enumerate(outputs(made, kind)[:count]):
        region = Region.BRAIN if brain[i] > 20.0 else Region.BELOW_BRAIN if i < middle else Region.ABOVE_BRAIN
        left_out = None if region is Region.BRAIN else region.value
        if kind == "not-evaluated" or (kind == "gap" and i == middle):
            region, left_out = Region.UNKNOWN, "the pixel data could not be decoded"
        likely = [0.86 if name == (where[i] or made.location) else 0.07 for name in LOCATIONS]
        slices.append(
            SliceFinding(
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                sop_instance_uid=uid[i],
                instance_number=i + 1,
                position_mm=made.positions_mm[i],
                region=region,
                outcome=Outcome.NOT_EVALUATED if left_out else THRESHOLDS.judge(presence),
                presence=None if left_out else presence,
                location=None if left_out else (likely[0], likely[1], likely[2]),
                left_out=left_out,
            )
        )
    gaps = {
        "gap": ("1 slice inside the brain left out",),
        "partial": ("the upper end of the brain (vertex) is not in the series",),
    }.get(kind, ())
    return conclude(slices, Coverage(not gaps, 140.0, True, kind != "partial", gaps), THRESHOLDS)


def looked(made: phantom.Phantom, i: int) -> np.ndarray:
    """A relevance map as a network might have it, (row, column) 0..1: at the blood, else somewhere in the brain."""
    anywhere = made.brain[i] * np.random.default_rng(i).random(made.brain[i].shape)
    where = made.blood[i] if made.blood[i].any() else anywhere
    smooth = gaussian_filter(where.astype(np.float32), 9.0)
    if not made.blood[i].any():
        smooth = np.maximum(0.0, smooth - 0.9 * smooth.max()) * made.brain[i]
    return np.asarray(smooth / max(float(smooth.max()), 1e-9), np.float32)


def bleeding(kind: str, places: tuple[str, ...]) -> tuple[phantom.Phantom, list[str | None]]:
    """One head with blood in each of the places, and for each slice the place of what blood it shows."""
    usual = {"volume_ml": 3.0 if kind == "undetermined" else 18.0} if places else {}
    number = int(np.random.default_rng([7, list(EXAMPLES).index(kind)]).integers(2**31))
    first, *others = (
        phantom.render(phantom.draw(number, place, thickness_mm=5.0, **usual)) for place in places or (None,)
    )
    amounts = {made.location: made.blood.sum(axis=(1, 2)) for made in (first, *others)}
    hu, blood = first.hu, first.blood
    for other in others:
        hu, blood = np.where(other.blood > 0, other.hu, hu), np.maximum(blood, other.blood)
    where = [max(amounts, key=lambda place: amounts[place][i]) if blood[i].any() else None for i in range(len(hu))]
    return replace(first, hu=hu, blood=blood), where


def write(kind: str, places: tuple[str, ...], dicom: Path | None) -> None:
    made, where = bleeding(kind, places)
    series = scanner.series(made, scanner.SyntheticPatient(f"EXAMPLE^{kind.upper()}", f"EX-{kind}"), when=WHEN)
    findings = found(made, kind, [str(ds.SOPInstanceUID) for ds in series], where)
    series = series[: len(findings.slices)]
    run = 2 if kind == "second" else 1
    page = picture.compose(
        findings,
        {
            i: picture.Shown(made.hu[i], looked(made, i) if speaks(findings.slices[i]) else None, SUPINE)
            for i in picture.to_show(findings)
        },
        algorithm="Example; no network was asked",
        notice=NOTICE,
        thresholds=THRESHOLDS,
        run=run,
        replaces=run > 1,
        series_number=str(series[0].SeriesNumber),
    )
    with io.BytesIO() as buffer:
        page.resize((768, 768 * page.height // page.width), Image.Resampling.LANCZOS).quantize(224).save(
            buffer, "PNG", optimize=True
        )
        (HERE / f"example-{kind}.png").write_bytes(buffer.getvalue())
    if dicom:
        scanner.write(series, dicom / kind)
        about = context(9001, findings, run)
        (dicom / f"{kind}.dcm").write_bytes(provenance.to_bytes(sr.build(series, findings, about)))
        drawn = [findings.slices[i] for i in picture.to_show(findings)]
        seen = capture.build(page, drawn, series, findings, context(9002, findings, run))
        (dicom / f"{kind}-picture.dcm").write_bytes(provenance.to_bytes(seen))


def speaks(one: SliceFinding) -> bool:
    """Whether the node would draw a map: on a slice without hemorrhage its brightest spot would mean nothing."""
    return one.outcome is not Outcome.ABSENT


def context(series_number: int, findings: SeriesFindings, run: int) -> ReportContext:
    earlier = Reference(uids.fresh(), uids.fresh(), sr.SR_CLASSES[0], uids.fresh())
    return ReportContext(
        device_uid=uids.derived("example"),
        device_name="DICOMNODE",
        sop_instance_uid=uids.fresh(),
        series_instance_uid=uids.fresh(),
        content_datetime=WHEN,
        algorithm=Algorithm("dtvit", "0", "dicom-node project", {"example": "outputs were made up"}),
        completion_rule="images from below the brain to above it without a gap",
        series_number=series_number,
        whole=findings.coverage.complete,
        partial_because="; ".join(findings.coverage.gaps) or None,
        run=run,
        predecessors=(earlier,) if run > 1 else (),
        notice=NOTICE,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dicom", type=Path, help="folder for CT series and reports")
    folder = parser.parse_args().dicom
    for example, bleeds in EXAMPLES.items():
        write(example, bleeds, folder)
