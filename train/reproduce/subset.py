"""A little data for `--quick`: some patients of each kind, some slices of each, as a manifest of their own."""

from __future__ import annotations

import numpy as np

from train import csvfile
from train.dataset.manifest import COLUMNS, Manifest, Row
from train.dataset.splits import kind

PATIENTS = {"normal": 14, "deep": 10, "lobar": 6, "subtentorial": 5, "unknown": 5}
SLICES = 10  # of each patient, evenly spaced


def as_csv(found: Manifest) -> bytes:
    """The smaller manifest, its paths absolute."""
    random = np.random.default_rng((0, 4))
    of_patient: dict[str, list[Row]] = {}
    for row in found.rows:
        of_patient.setdefault(row.patient_id, []).append(row)
    of_kind: dict[str, list[str]] = {name: [] for name in PATIENTS}
    for patient in sorted(of_patient):
        of_kind.setdefault(kind(_telling(of_patient[patient])), []).append(patient)
    chosen = sorted(
        patient
        for name, patients in of_kind.items()
        for patient in random.permutation(patients)[: PATIENTS.get(name, 0)].tolist()
    )
    columns = [name for name in COLUMNS if name in found.columns]
    lines = [columns]
    for patient in chosen:
        rows = of_patient[patient]
        places = np.unique(np.linspace(0, len(rows) - 1, min(SLICES, len(rows))).round().astype(int)).tolist()
        lines += [[getattr(rows[place], name) for name in columns] for place in places]
    return csvfile.encoded(lines)


def _telling(rows: list[Row]) -> Row:
    """The first that bleeds; of a patient without, the first with a label."""
    return max(rows, key=lambda row: -1 if row.ich is None else row.ich)
