"""The figures, as PNG: curves, reliability, answers, confusion, strata; nothing is shown by colour alone.

Below each stands `label`, how the patients were divided: a figure travels without the page it was made for.

Source of the colours: Okabe and Ito 2008, "Color Universal Design", distinct in the common colour vision deficiencies.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from dtvit.findings import LOCATIONS, Outcome, Thresholds
from train.digits import shown
from train.evaluation.figures import BINS, in_bins, ratio
from train.evaluation.units import Units

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#999999", "#222222"
LEVELS = (("slice", "slices", BLUE, "-"), ("patient", "series", ORANGE, "--"))
WIDE = (9.0, 3.8)  # inches
DPI = 130


def curves(
    units: Mapping[str, Units], metrics: Mapping[str, Any], cuts: Mapping[str, Thresholds], label: str
) -> bytes | None:
    """ROC and precision-recall curves of presence, with the two thresholds marked; None if neither can be drawn."""
    figure, (roc, pr) = _figure(WIDE, 2)
    drawn = False
    for level, name, colour, style in LEVELS:
        known = units[level].presence >= 0
        truth, score = units[level].presence[known] == 1, units[level].score[known]
        if truth.all() or not truth.any():
            continue
        drawn = True
        found = metrics["presence"][level]
        false, true, _ = roc_curve(truth, score)
        roc.plot(false, true, style, color=colour, label=f"{name}, AUC {_with_interval(found, 'auc')}")
        precision, recall, _ = precision_recall_curve(truth, score)
        area = f"{name}, AP {_with_interval(found, 'average_precision')}"
        # in steps, whose area the average precision is: straight lines would promise more between two points
        pr.plot(recall, precision, style, color=colour, label=area, drawstyle="steps-post")
        pr.axhline(truth.mean(), color=colour, linewidth=0.8, linestyle=":")
        for cut, marker in ((cuts[level].absent_below, "o"), (cuts[level].present_at, "s")):
            called = score >= cut
            roc.plot(
                (called & ~truth).sum() / (~truth).sum(), (called & truth).sum() / truth.sum(), marker, color=colour
            )
    roc.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=":")
    _axes(roc, "called, of those without hemorrhage", "called, of those with hemorrhage", "ROC")
    _axes(pr, "recall", "precision", "Precision and recall (dotted: by chance)")
    roc.plot([], [], "o", color=BLACK, label="threshold of absent")
    roc.plot([], [], "s", color=BLACK, label="threshold of present")
    if not drawn:
        return None
    for axes in (roc, pr):
        axes.legend(loc="lower right" if axes is roc else "lower left", frameon=False, fontsize=8)
    return _png(figure, label)


def reliability(slices: Units, label: str) -> bytes | None:
    """What a probability is worth: share of hemorrhage among slices that were given it, and how many there were."""
    known = slices.presence >= 0
    if not known.any():
        return None
    bins = in_bins(slices.score[known], slices.presence[known] == 1).sum(0)
    count, confidence, share = bins[:, 0], ratio(bins[:, 1], bins[:, 0]), ratio(bins[:, 2], bins[:, 0])
    there = count > 0
    figure, (line, histogram) = _figure(WIDE, 2)
    line.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=":")
    line.plot(confidence[there], share[there], "o-", color=BLUE, markersize=5)
    _axes(line, "mean probability given", "share with hemorrhage", "Reliability of slice probabilities")
    edges = np.linspace(0, 1, BINS + 1)
    truth = slices.presence[known] == 1
    for rows, name, colour, hatch in (
        (~truth, "without hemorrhage", GREY, ""),
        (truth, "with hemorrhage", ORANGE, "//"),
    ):
        histogram.hist(
            slices.score[known][rows],
            edges.tolist(),
            color=colour,
            alpha=0.75,
            label=name,
            hatch=hatch,
            edgecolor="white",
        )
    _axes(histogram, "probability given", "slices", "How often each was given", unit_square=False)
    histogram.legend(frameon=False, fontsize=8)
    return _png(figure, label)


def answers(metrics: Mapping[str, Any], label: str) -> bytes | None:
    """What the node would say, as shares of those with hemorrhage, without, and unlabelled; None if there are none."""
    sides = (("unlabelled", "without a label"), ("none", "without"), ("hemorrhage", "with hemorrhage"))
    rows = [
        (f"{name} {words}", found)
        for level, name, _, _ in reversed(LEVELS)
        for key, words in sides
        if (found := metrics["presence"][level]["answers"].get(key)) and found["count"]
    ]
    if not rows:
        return None
    figure, (axes,) = _figure((9.0, 1.0 + 0.4 * len(rows)), 1)
    kinds = ((Outcome.ABSENT, GREEN, ""), (Outcome.UNDETERMINED, "#DDDDDD", ".."), (Outcome.PRESENT, ORANGE, "//"))
    for place, (_, found) in enumerate(rows):
        left = 0.0
        for answer, colour, hatch in kinds:
            share = found[answer]
            axes.barh(
                place, share, 0.7, left, color=colour, hatch=hatch, edgecolor="white", label=None if place else answer
            )
            if share > 0.06:
                ink = "white" if colour == GREEN else BLACK
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85} if hatch else None
                axes.text(
                    left + share / 2, place, f"{share:.0%}", ha="center", va="center", fontsize=9, color=ink, bbox=box
                )
            left += share
    axes.set_yticks(range(len(rows)), [f"{name} ({found['count']:,})" for name, found in rows])
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return _png(figure, label)


def confusions(metrics: Mapping[str, Any], label: str) -> bytes:
    """Confusion matrices of both heads, for slices and series; the number, and the share of its row."""
    figure, places = _figure((9.0, 6.0), 2, rows=2)
    for column, (level, name, _, _) in enumerate(LEVELS):
        found = metrics["presence"][level]
        cut = shown(found["cut"], 2)
        _matrix(places[column], found["confusion"], ("none", "hemorrhage"), f"Presence, {name}, cut {cut}")
        _matrix(places[2 + column], metrics["location"][level]["confusion"], LOCATIONS, f"Location, {name}")
    return _png(figure, label)


def strata(metrics: Mapping[str, Any], level: str, by_level: str, label: str) -> bytes | None:
    """AUC of each stratum with its interval, as a forest plot; None if none is known."""
    rows = [
        (f"{by.replace('_', ' ')}: {value}", found)
        for by, values in metrics["strata"][level].items()
        for value, found in values.items()
        if np.isfinite(found["auc"])
    ]
    if not rows:
        return None
    whole = metrics["presence"][level]["auc"]
    figure, (axes,) = _figure((9.0, 0.9 + 0.34 * len(rows)), 1)
    for place, (_, found) in enumerate(reversed(rows)):
        low, high = found["auc_ci"]
        axes.plot((low, high), (place, place), color=BLUE)
        axes.plot(found["auc"], place, "s", color=BLUE, markersize=6)
    if np.isfinite(whole):
        axes.axvline(whole, color=GREY, linewidth=0.8, linestyle=":")
    labels = [f"{name}  (+{found['positives']:,} / -{found['negatives']:,})" for name, found in reversed(rows)]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_xlabel(f"AUC of {by_level}, 95 % interval (dotted: all)")
    axes.set_xlim(min(0.45, *(found["auc_ci"][0] for _, found in rows if np.isfinite(found["auc_ci"][0])), 1), 1.01)
    return _png(figure, label)


def _figure(size: tuple[float, float], columns: int, rows: int = 1) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in places:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(places)


def _axes(axes: Axes, x: str, y: str, title: str, *, unit_square: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10)
    axes.set_xlim(-0.02, 1.02)
    if unit_square:
        axes.set_ylim(-0.02, 1.02)
        axes.set_aspect("equal")


def _matrix(axes: Axes, matrix: Sequence[Sequence[int]], names: Sequence[str], title: str) -> None:
    counts: NDArray[np.float64] = np.array(matrix, float)
    shares = ratio(counts, counts.sum(1, keepdims=True))
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        share = shares[row, column]
        text = f"{int(counts[row, column]):,}" + (f"\n{share:.0%}" if np.isfinite(share) else "")
        ink = "white" if np.nan_to_num(share) > 0.55 else BLACK
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=10)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.set_title(title, fontsize=10)
    axes.spines[:].set_visible(False)


def _with_interval(found: Mapping[str, Any], name: str) -> str:
    low, high = found.get(f"{name}_ci", (np.nan, np.nan))
    return shown(found[name]) + (f" ({shown(low)} to {shown(high)})" if np.isfinite(low) else "")


def _png(figure: Figure, label: str) -> bytes:
    figure.supxlabel(label, fontsize=8, color=BLACK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None, "Description": label})
    return buffer.getvalue()
