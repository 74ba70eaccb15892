"""Pictures that cost nothing to make, for tests of training; no torch, since processes of their own import this."""

import numpy as np

from train.dataset.pictures import ORIGINS, PARTS, UNCLEAR, Pictures, part_of


def labelled(presence, **columns):
    """A slice for each label, black, of a patient and a series of its own; but for these `columns`."""
    count = len(presence)
    known = {
        "pictures": np.zeros((count, 1, 1), np.uint8),
        "blood": np.zeros((count, 56, 56), np.uint8),
        "traced": np.zeros(count, bool),
        "presence": np.array(presence, np.int8),
        "location": np.full(count, UNCLEAR, np.int8),
        "patient": np.arange(count, dtype=np.int32),
        "series": np.arange(count, dtype=np.int32),
        "part": np.zeros(count, np.int8),
        "origin": np.full(count, ORIGINS.index("patient"), np.int8),
        "volume_ml": np.full(count, np.nan, np.float32),
        "area_mm2": np.full(count, np.nan, np.float32),
    }
    return Pictures(**known | {name: np.array(column, known[name].dtype) for name, column in columns.items()})


def drawn_head(number):
    """Three slices with a square of 70 HU in the disk, left, right or below by location, and the three without."""
    rng = np.random.default_rng(number)
    location = number % 3
    rows, columns = np.mgrid[:224, :224]
    pictures, blood = np.zeros((6, 224, 224), np.float32), np.zeros((6, 56, 56), np.uint8)
    for i in range(6):
        pictures[i] = np.where(np.hypot(rows - 112, columns - 112) < 70, 33 + rng.normal(0, 2, (224, 224)), 0)
        if i < 3:
            row, column = np.array([(22, 16), (22, 32), (34, 24)][location]) + rng.integers(-2, 3, 2)
            blood[i, row : row + 7, column : column + 7] = 255
            pictures[i, row * 4 : row * 4 + 28, column * 4 : column * 4 + 28] += 37
    presence = np.array([1, 1, 1, 0, 0, 0])
    return labelled(
        presence,
        pictures=pictures.clip(0, 80) / 80 * 255,
        blood=blood,
        location=np.where(presence == 1, location, UNCLEAR),
        traced=[True] * 6,
        patient=[number] * 6,
        series=[2 * number] * 3 + [2 * number + 1] * 3,
        part=[PARTS.index(part_of(number))] * 6,
        origin=[ORIGINS.index("phantom")] * 6,
        volume_ml=[10] * 3 + [0] * 3,
        area_mm2=[700] * 3 + [0] * 3,
    )


def drawn_as_made(number, _seed, _way):
    """As `train.making.synthetic` has its heads made."""
    return drawn_head(number)


def failing(number, _seed, _way):
    raise RuntimeError(f"no place for bleed {number}")


def failing_once(number, seed, way):
    assert way.mode == ("paper" if number < 20 else "robust")  # mixed: half and half
    return failing(number, seed, way) if number == 3 else drawn_head(number)
