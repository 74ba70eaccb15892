"""A checkpoint for other programs: ONNX or torch.export, from pictures to calibrated probabilities.

What is exported takes pictures as `dtvit.preprocess` makes them, uint8, so that nobody has to repeat the scaling, and
gives probabilities after temperature, without "none" among the locations. They are compared with the numbers of
`dtvit.inference` before anything is written. What comes before (HU, removal of the holder, geometry) and after
(thresholds, the rule for a series) is described in the file's metadata and in the README beside it, and is not in the
graph.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dtvit import brace, phantom, preprocess
from dtvit.checkpoint import Checkpoint, describe, load
from dtvit.findings import LOCATIONS
from dtvit.inference import Classifier
from dtvit.model import DTViT
from dtvit.wholefile import write_whole
from train.card import model_card
from train.evaluation.cases import geometry_of
from train.exportedtext import Format, as_text, readme, told

TOLERANCE = 1e-3  # of a probability; both formats come within 1e-6 when all is well
OPSET = 18
ONE_FILE = 2_000_000_000  # bytes; protobuf ends at 2 GiB
INPUT, OUTPUTS = "pictures", ("presence", "location")
Run = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]


class NotExportable(Exception):
    """This checkpoint cannot be exported so, or the export gives other numbers; nothing was written."""


@dataclass(frozen=True)
class Exported:
    beside: Path
    """The README."""
    difference: float
    """The largest, of any probability."""
    slices: int
    """How many it was measured on."""


class Portable(nn.Module):
    """(N, 224, 224) uint8 to presence (N,) and location (N, 3): probabilities."""

    def __init__(self, model: DTViT, checkpoint: Checkpoint) -> None:
        super().__init__()
        metadata = checkpoint.metadata
        self.model = model
        self.mean = nn.Buffer(torch.tensor(metadata.mean).view(1, 3, 1, 1))
        self.std = nn.Buffer(torch.tensor(metadata.std).view(1, 3, 1, 1))
        self.presence_temperature = metadata.presence_temperature
        self.location_temperature = metadata.location_temperature

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        presence, location = self.model((pictures[:, None].float() / 255 - self.mean) / self.std)
        return (
            (presence / self.presence_temperature).softmax(1)[:, 1],
            (location[:, : len(LOCATIONS)] / self.location_temperature).softmax(1),
        )


def export(source: Path, kind: Format, path: Path) -> Exported:
    """Write `path`, and a README beside it. Raises UnusableCheckpoint, NotExportable, OSError, leaving nothing."""
    model, checkpoint = load(source)
    pictures = phantom_slices(checkpoint)
    portable = Portable(model, checkpoint).eval()
    content, run = _MAKERS[kind](portable, checkpoint, pictures)
    difference = _difference(run, model, checkpoint, pictures)
    if not difference <= TOLERANCE:
        raise NotExportable(
            f"{source} as {kind} gives probabilities that differ by {difference:.2g} from the checkpoint's, more than "
            f"{TOLERANCE:g}; try the other format"
        )
    beside = path.with_name(f"{path.name}.README.md")
    new = not beside.exists()
    write_whole(beside, readme(checkpoint, kind, path.name, difference, len(pictures)).encode())
    try:
        write_whole(path, content)
    except OSError:
        if new:
            with contextlib.suppress(FileNotFoundError):
                beside.unlink()
        raise
    return Exported(beside, difference, len(pictures))


def export_card(source: Path, path: Path) -> None:
    """The model card, from what the checkpoint says of itself. Raises UnusableCheckpoint, OSError."""
    write_whole(path, model_card(describe(source)).encode())


def phantom_slices(checkpoint: Checkpoint) -> NDArray[np.uint8]:
    """(N, 224, 224): slices of phantoms with a bleed in each location, as this checkpoint takes them."""
    geometry = geometry_of(checkpoint)
    made = []
    for seed, location in enumerate(LOCATIONS):
        spec = phantom.draw(seed, location)
        middle = len(spec.positions_mm) // 2
        for position in spec.positions_mm[middle - 3 : middle + 6 : 3]:
            hu = phantom.render_slice(spec, position).hu
            head = brace.find_head(hu, (spec.scan.pixel_mm, spec.scan.pixel_mm))
            made.append(preprocess.model_input(preprocess.picture(hu, head.mask), geometry))
    return np.stack(made)


def _difference(run: Run, model: DTViT, checkpoint: Checkpoint, pictures: NDArray[np.uint8]) -> float:
    """Largest of any probability, between what was exported and what the node computes."""
    wanted = Classifier(model, checkpoint, torch.device("cpu")).predict(pictures)
    presence, location = run(pictures)
    apart = np.abs(presence - wanted.presence).max(), np.abs(location - wanted.location).max()
    return float(np.max(apart))  # NaN if one of them is


def _torch_export(portable: Portable, checkpoint: Checkpoint, pictures: NDArray[np.uint8]) -> tuple[bytes, Run]:
    buffer = io.BytesIO()
    inside = {"dtvit.json": json.dumps(told(checkpoint), indent=1)}
    torch.export.save(_program(portable, pictures), buffer, extra_files=inside)
    content = buffer.getvalue()
    read: Any = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            presence, location = read(torch.from_numpy(inputs))
        return presence.numpy(), location.numpy()

    return content, run


def _onnx(portable: Portable, checkpoint: Checkpoint, pictures: NDArray[np.uint8]) -> tuple[bytes, Run]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it, and says so less plainly
    except ImportError as exc:
        raise NotExportable(f"ONNX needs the package {exc.name}; install dicom-node[onnx]") from exc
    size = sum(each.numel() * each.element_size() for each in portable.parameters())
    if size > ONE_FILE:
        raise NotExportable(f"{size / 1e9:.1f} GB of weights do not fit one ONNX file; use --format torch-export")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, to its own developers
            made = torch.onnx.export(
                _program(portable, pictures),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                verbose=False,
            )
    except Exception as exc:  # torch's exporter promises no class
        raise NotExportable(f"torch cannot write {checkpoint.metadata.encoder} as ONNX: {exc}") from exc
    assert made is not None
    proto = made.model_proto
    onnx.helper.set_model_props(proto, {key: as_text(value) for key, value in told(checkpoint).items()})
    content: bytes = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(inputs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        presence, location = session.run(list(OUTPUTS), {INPUT: inputs})
        return presence, location

    return content, run


_MAKERS = {"onnx": _onnx, "torch-export": _torch_export}


def _program(portable: Portable, pictures: NDArray[np.uint8]) -> torch.export.ExportedProgram:
    """For any number of slices."""
    example = (torch.from_numpy(pictures[:2]),)
    try:
        return torch.export.export(portable, example, dynamic_shapes={INPUT: {0: torch.export.Dim("slices", min=1)}})
    except Exception as exc:  # torch's exporter promises no class
        encoder = type(portable.model.encoder).__name__
        raise NotExportable(f"torch cannot export the encoder {encoder}: {exc}") from exc
