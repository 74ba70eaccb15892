"""Figures: how training went, and what was mistaken for what."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dtvit.findings import LOCATIONS
from train.dataset.pictures import APART
from train.reproduce.planned import Row
from train.reproduce.tables import SHORT_LEAKY, Made

COLOURS = {SHORT_LEAKY: "#d55e00", APART: "#0072b2"}  # Okabe and Ito: told apart by everyone
DPI = 110


def training(rows: Sequence[tuple[Row, Made]]) -> bytes | None:
    """Loss by step, of the training and of the validation part; None if nothing was trained. PNG."""
    figure = drawn(rows)
    return None if figure is None else _png(figure)


def drawn(rows: Sequence[tuple[Row, Made]]) -> Figure | None:
    """The same, as a figure. Each part has a scale of its own: v2 halves its training loss, and both papers train four
    locations, while the validation loss is the plain sum over three."""
    rows = [(row, made) for row, made in rows if made["curve"]]
    if not rows:
        return None
    figure = Figure(figsize=(9, 3.4), dpi=DPI, layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, 2)
    for axis, key, title in zip(axes, ("training_loss", "validation_loss"), ("training", "validation"), strict=True):
        for row, made in rows:
            label = APART if row.split == "apart" else SHORT_LEAKY
            steps, losses = ([point[name] for point in made["curve"]] for name in ("step", key))
            axis.plot(steps, losses, color=COLOURS[label], alpha=0.8, marker=".", label=label)
        axis.set(title=f"loss, {title} part", xlabel="step")
        axis.set_ylim(bottom=0)  # after all lines: it ends the scaling to what is drawn
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[1].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes[1].legend(list(unique.values()), list(unique), frameon=False)
    return figure


def confusions(rows: Sequence[tuple[Row, Made]]) -> bytes | None:
    """Confusion matrices, all seeds together, slices mixed above patients apart; None without rows. PNG."""
    if not rows:
        return None
    figure = Figure(figsize=(7.5, 6.6), dpi=DPI, layout="constrained")
    axes = figure.subplots(2, 2)
    for line, (label, mixed) in zip(axes, ((SHORT_LEAKY, True), (APART, False)), strict=True):
        some = [made for row, made in rows if (row.split != "apart") == mixed]
        heads = (("presence", ("none", "hemorrhage")), ("location", LOCATIONS))
        for axis, (head, names) in zip(line, heads, strict=True):
            matrices = [np.array(made["metrics"][head]["slice"]["confusion"]) for made in some]
            _matrix(axis, sum(matrices, np.zeros((len(names), len(names)), int)), names, f"{head}, {label}")
    return _png(figure)


def _matrix(axis: Axes, matrix: np.ndarray[Any, Any], names: Sequence[str], title: str) -> None:
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        colour = "white" if shares[row, column] > 0.6 else "black"
        axis.text(column, row, f"{int(count):,}", ha="center", va="center", color=colour)
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names)
    axis.set(title=title, xlabel="answer", ylabel="truth")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Description": f"{SHORT_LEAKY}; {APART}"})
    return buffer.getvalue()
