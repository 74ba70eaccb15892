"""An untrained checkpoint for tests: the smallest ViT that timm has, with random weights from a seed; made at once."""

from pathlib import Path

import torch

from dtvit.checkpoint import Metadata, save
from dtvit.findings import Thresholds
from dtvit.model import DTViT

ENCODER = "test_vit"  # 0.3 million parameters
PREPROCESSING = ("untrained-1",)


def metadata(**changes: object) -> Metadata:
    fields: dict[str, object] = {
        "name": "untrained",
        "encoder": ENCODER,
        "training_data": "none",
        "patients_seen": "none",
        "preprocessing": PREPROCESSING,
        "slice_thresholds": Thresholds(0.3, 0.6),
        "series_thresholds": Thresholds(0.2, 0.7),
    }
    return Metadata(**{**fields, **changes})  # type: ignore[arg-type]


def untrained_checkpoint(path: Path, *, seed: int = 0, **changes: object) -> Path:
    """`changes`: fields of Metadata that are to differ."""
    made = metadata(**changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DTViT(made.encoder, len(made.location_classes), made.head)
        for parameter in model.presence.parameters():
            torch.nn.init.normal_(parameter)  # spread, so that pictures differ in their output
    save(path, model.state_dict(), made)
    return path
