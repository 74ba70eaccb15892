"""From pictures to logits: one way for training, evaluation and calibration. No augmentation, every patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dtvit.findings import LOCATIONS
from dtvit.inference import NotFinite
from dtvit.model import DTViT
from train.dataset.pictures import CROP, Pictures
from train.recipe import MeanStd

Precision = Literal["node", "fp32", "bf16"]
"""`node`: bf16 on CUDA, as the node computes there, fp32 elsewhere; where the node takes bf16 on a CPU, its
probabilities are within 0.01 of these (docs/decisions/0012)."""
BATCH = {"cpu": 64, "cuda": 512, "mps": 128}


@dataclass(frozen=True)
class Logits:
    presence: NDArray[np.float64]
    """(N, 2): absent, present."""
    location: NDArray[np.float64]
    """(N, 3), in the order of LOCATIONS: softmax over them is what is left of four after "none" is dropped."""


@torch.inference_mode()
def predict(
    model: DTViT,
    pictures: Pictures,
    mean_std: MeanStd,
    *,
    precision: Precision = "node",
    batch: int | None = None,
    tell: Callable[[int, int], object] = lambda done, of: None,
) -> Logits:
    """Logits of each slice, computed on the model's device; the model's mode is restored. `tell` is called after every
    batch with how many slices are done, and of how many.

    Raises NotFinite, naming the first slice for which the model gives no finite number.
    """
    device = next(model.parameters()).device
    reduced = precision == "bf16" or (precision == "node" and device.type == "cuda")
    at_once = batch or BATCH.get(device.type, 64)
    presence, location = np.empty((len(pictures), 2)), np.empty((len(pictures), len(LOCATIONS)))
    training = model.training
    model.eval()
    try:
        for start in range(0, len(pictures), at_once):
            part = slice(start, min(start + at_once, len(pictures)))
            images = normalised(middle(pictures.pictures[part]), device, mean_std)
            with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
                found = model(images)
            presence[part], location[part] = (x.double().cpu().numpy()[:, : len(LOCATIONS)] for x in found)
            tell(part.stop, len(pictures))
    finally:
        model.train(training)
    finite = np.isfinite(presence).all(1) & np.isfinite(location).all(1)
    if not finite.all():
        raise NotFinite(f"the model gives no finite number for slice {int(np.argmin(finite))} of {len(pictures)}")
    return Logits(presence, location)


def middle(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 224, 224): what a model sees of (N, S, S)."""
    start = (pictures.shape[1] - CROP) // 2
    return pictures[:, start : start + CROP, start : start + CROP]


def normalised(pictures: NDArray[np.uint8], device: torch.device, mean_std: MeanStd) -> torch.Tensor:
    """(N, 3, 224, 224) on the device, exactly as `dtvit.inference` makes them."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).to(device)
    centre, spread = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in mean_std)
    return (pixels[:, None].float() / 255 - centre) / spread
