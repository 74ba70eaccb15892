"""The strip of a summary picture: every slice of the series from feet to head, with its output or as left out."""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.report import wording
from dicom_node.report.page import DIM, INK, MARGIN, PANEL, WIDTH, Page, font
from dtvit.findings import Outcome, SeriesFindings, SliceFinding, Thresholds

HEIGHT = 110
HATCHED, HATCHING = (78, 78, 82), (150, 150, 150)


def draw(page: Page, findings: SeriesFindings, thresholds: Thresholds | None) -> None:
    """One bar per slice from feet to head; a slice that was left out is hatched over the whole height."""
    if not findings.slices:
        return
    page.text("Output of every image from feet (left) to head (right)", 19)
    left, right, top = MARGIN + 44, WIDTH - MARGIN, page.y + 4
    bottom = top + HEIGHT
    page.draw.rectangle((left, top, right, bottom), fill=PANEL)
    count = len(findings.slices)
    edges = [left + round(i * (right - left) / count) for i in range(count + 1)]
    order = sorted(range(count), key=lambda i: (findings.slices[i].evaluated, findings.slices[i].presence or 0.0))
    for i in order:
        _bar(page, findings.slices[i], (edges[i], max(edges[i], edges[i + 1] - 2)), top, bottom)
    for value in (0.0, 1.0):
        label = f"{100 * value:.0f} %"
        page.draw.text((left - 6 - font(15).getlength(label), bottom - 17 - round(value * (HEIGHT - 17))), label,
                       font=font(15), fill=DIM)  # fmt: skip
    for cut in (thresholds.absent_below, thresholds.present_at) if thresholds else ():
        y = bottom - round(cut * HEIGHT)
        for x in range(left, right - 4, 10):
            page.draw.line((x, y, x + 4, y), fill=INK)
    page.y = bottom + 4
    _numbers(page, findings.slices, edges)
    colours = {
        Outcome.PRESENT: "orange present",
        Outcome.UNDETERMINED: "yellow undetermined",
        Outcome.ABSENT: "blue absent",
    }
    seen = [said for outcome, said in colours.items() if any(s.outcome is outcome for s in findings.slices)]
    legend = [f"each image by itself: {', '.join(seen)}"] if seen else []
    legend += ["hatched: not evaluated"] if any(not s.evaluated for s in findings.slices) else []
    legend += ["dashed lines: thresholds for absent (lower) and present (upper)"] if thresholds else []
    if legend:
        page.text("; ".join(legend), 17, DIM)
    page.y += 8


def _bar(page: Page, s: SliceFinding, across: tuple[int, int], top: int, bottom: int) -> None:
    x0, x1 = across
    if s.evaluated:
        height = max(2, round((s.presence or 0.0) * (bottom - top)))
        page.draw.rectangle((x0, bottom - height, x1, bottom), fill=wording.COLOURS[s.outcome])
        return
    page.draw.rectangle((x0, top, x1, bottom), fill=HATCHED)
    for y in range(top, bottom, 9):
        page.draw.line((x0, min(bottom, y + (x1 - x0) // 2 + 3), x1, y), fill=HATCHING)


def _numbers(page: Page, slices: Sequence[SliceFinding], edges: Sequence[int]) -> None:
    """Instance numbers under the bars: all, or every second, fifth, tenth ..., so that they do not touch."""
    labels = [wording.label(s) for s in slices]
    widest = max(font(15).getlength(label) for label in labels) + 8
    bar = (edges[-1] - edges[0]) / len(slices)
    step = next((n for k in range(8) for n in (10**k, 2 * 10**k, 5 * 10**k) if n * bar >= widest), len(slices))
    for i in range(0, len(slices), step):
        middle = (edges[i] + edges[i + 1]) / 2
        width = font(15).getlength(labels[i])
        page.draw.text((min(middle - width / 2, WIDTH - 4 - width), page.y), labels[i], font=font(15), fill=DIM)
    page.y += 22
