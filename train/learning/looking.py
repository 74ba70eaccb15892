"""A look at the validation part while training: what the best weights are chosen by, and a few figures for the log."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it

from dtvit.findings import LOCATIONS
from dtvit.model import DTViT
from train.dataset.pictures import Pictures
from train.evaluation import Logits, auc, calibrate, predict
from train.evaluation.units import of_series, of_slices
from train.learning.batches import location_labels
from train.recipe import Recipe


def some(validation: Pictures, recipe: Recipe) -> Pictures:
    """Whole patients at random until there are `validation_slices`, of both classes; a list may be sorted by label."""
    limit = recipe.validation_slices
    if not limit or len(validation) <= limit:
        return validation
    chosen = np.zeros(len(validation), bool)
    for patient in np.random.default_rng((recipe.seed, 4)).permutation(np.unique(validation.patient)):
        chosen |= validation.patient == patient
        if chosen.sum() >= limit and {0, 1} <= set(validation.presence[chosen].tolist()):
            break
    return validation.take(chosen)


def logits(model: DTViT, pictures: Pictures, recipe: Recipe, precision: str) -> Logits:
    """In bf16 if the training is. Raises NotFinite."""
    return predict(model, pictures, recipe.mean_std, precision="bf16" if precision == "bf16" else "node")


def cost(found: Logits, truth: Pictures) -> float:
    """Cross entropy of both heads over their labelled slices, without smoothing."""
    pairs = (found.presence, truth.presence), (found.location, location_labels(truth, len(LOCATIONS)))
    return sum(
        float(F.cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels.astype(np.int64)), ignore_index=-1))
        for scores, labels in pairs
        if (labels >= 0).any()
    )


def figures(found: Logits, truth: Pictures) -> dict[str, float]:
    """AUC of slices and of series, and mean recall over the locations, without intervals: all that a log needs."""
    calibration = calibrate(found, truth)
    slices = of_slices(found, truth, calibration)
    series = of_series(slices, truth.series, calibration)
    areas = [auc(each.score[each.presence >= 0], each.presence[each.presence >= 0] == 1) for each in (slices, series)]
    right = found.location.argmax(1) == truth.location
    recalls = [
        right[slices.location == place].mean() for place in range(len(LOCATIONS)) if (slices.location == place).any()
    ]
    return {
        "slice_auc": round(areas[0], 5),
        "patient_auc": round(areas[1], 5),
        "location_balanced": round(float(np.mean(recalls)), 5) if recalls else float("nan"),
    }
