"""What came of `prepare`, and what did not: figures, and sentences for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Prepared:
    """What came out, and what did not."""

    manifest: Path
    slices: int
    patients: int
    series: int
    made: int
    """Series whose pictures were made now; the others already existed."""
    unlabelled: int
    """Slices that the table of labels does not name; they are left out of the manifest."""
    unused_rows: tuple[int, ...]
    """Rows of the table of labels that name nothing in this folder."""
    lost: int = 0
    """Images with a row of their own but no picture: they show no brain, or their series is left out."""
    lost_bleeding: tuple[int, ...] = ()
    """Rows of those of them that are labelled as bleeding."""
    bleeding_by_series: int = 0
    """Slices whose hemorrhage is known from a row for a whole folder, series, study or patient."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """One file (relative to the folder) of each series that is not a head CT to look at, and why."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """File (relative to the folder) and reason."""

    @property
    def troubles(self) -> list[str]:
        """What could not be made, for a person to know, line by line."""
        lines = [f"{name}: {reason}" for name, reason in self.unreadable.items()]
        lines += [f"the series of {name} is left out: {reason}" for name, reason in self.refused.items()]
        if self.unlabelled:
            lines.append(f"{self.unlabelled} slices have no label, and so no line in the manifest")
        if self.lost:
            bleeding = f"rows {_first(self.lost_bleeding)}" if self.lost_bleeding else "none of them"
            lines.append(
                f"{self.lost} labelled images have no picture (no brain seen in them, or their series left out, or not "
                f"readable); labelled as bleeding: {bleeding}"
            )
        if self.bleeding_by_series:
            lines.append(
                f"{self.bleeding_by_series} slices count as bleeding because their whole series, study, patient or "
                "folder does; what is measured on such slices one by one means little, what is measured on series holds"
            )
        if self.unused_rows:
            lines.append(f"{len(self.unused_rows)} rows of the labels name nothing here: {_first(self.unused_rows)}")
        return lines

    @property
    def summary(self) -> str:
        if not self.slices:
            return "nothing came out; no manifest was written"
        return (
            f"{self.manifest}: {self.slices} slices of {self.patients} patients in {self.series} series, "
            f"{self.made} of them new"
        )


def _first(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:20])) + (" ..." if len(rows) > 20 else "")
