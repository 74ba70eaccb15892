"""Checkpoints: one safetensors file that holds the weights and says, in its header, all that is needed to use them.

The header has one entry, `dtvit`: a JSON object with the fields of `Metadata` and `format`. Weights are stored as
float16. A checkpoint is identified by its digest, the SHA-256 of the file; renaming the file does not change it.
torch is imported only when weights are read or written, so that `describe` answers at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from dtvit.findings import LOCATIONS, Thresholds
from dtvit.wholefile import write_whole

if TYPE_CHECKING:
    import torch

    from dtvit.model import DTViT, Head

FORMAT = "dtvit-checkpoint-1"
HEADER_KEY = "dtvit"
NONE = "none"  # fourth location class of the papers' released code: no hemorrhage
NOTICE = "NOT FOR CLINICAL USE"
SHIPPED = Path(__file__).parent / "weights" / "dtvit-small-robust.safetensors"
"""The checkpoint that comes with the project, used if none is named."""


class UnusableCheckpoint(Exception):
    """The file is not a checkpoint, or not one that this node can run; the text names the file, reason and remedy."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        reason = _printable(reason)  # it may quote the file
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path, self.reason, self.remedy = path, reason, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """So that it survives the way back from another process."""
        return UnusableCheckpoint, (self.path, self.reason, self.remedy)


@dataclass(frozen=True)
class Metadata:
    name: str
    encoder: str
    """A timm name."""
    training_data: str
    patients_seen: str
    """How much of the training data came from people, in words; "none" for phantoms alone."""
    preprocessing: tuple[str, ...]
    """Versions of `dtvit.preprocess` whose pictures the weights were trained for."""
    slice_thresholds: Thresholds
    series_thresholds: Thresholds
    presence_temperature: float = 1.0
    location_temperature: float = 1.0
    """Logits are divided by it before softmax."""
    location_classes: tuple[str, ...] = LOCATIONS
    head: Head = "linear"
    window_hu: tuple[float, float] = (0.0, 80.0)
    resize_pixels: int = 256
    crop_pixels: int = 224
    """These three say how `dtvit.preprocess` makes pictures; with other values a checkpoint is refused."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    limits: tuple[str, ...] = ()
    """What is known to go wrong, one sentence each."""
    licence: str = "not stated"
    notice: str = NOTICE
    created: str = ""
    """ISO 8601 date."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the run that made the weights."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """What was measured on data kept out of training, as in the run's metrics.json."""
    statistics: Mapping[str, Any] = field(default_factory=dict)
    """Of the training pictures and labels, as `train.evaluation.drift.statistics` gives them; may be empty."""

    def __post_init__(self) -> None:
        texts = (self.name, self.encoder, self.training_data, self.patients_seen, self.head, self.licence, self.created)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("name, encoder and whatever else is said in words must be text")
        if self.location_classes[:3] != LOCATIONS or self.location_classes[3:] not in ((), (NONE,)):
            raise ValueError(f"location_classes must be {LOCATIONS}, optionally followed by {NONE!r}")
        for key in ("presence_temperature", "location_temperature"):
            if not 0.01 <= getattr(self, key) <= 100:
                raise ValueError(f"{key} must lie between 0.01 and 100, got {getattr(self, key)}")
        for key in ("window_hu", "resize_pixels", "crop_pixels"):
            made = getattr(Metadata, key)
            if getattr(self, key) != made:
                raise ValueError(f"{key} is always {made}, got {getattr(self, key)}")
        if not self.preprocessing:
            raise ValueError("preprocessing must name at least one version")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std must hold three numbers each, std above 0")
        if not self.notice:
            raise ValueError("notice must not be empty")


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read and found whole, without its weights."""

    path: Path
    digest: str
    """SHA-256 of the file, 64 hexadecimal digits."""
    metadata: Metadata
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.shapes.values()))


def describe(path: Path) -> Checkpoint:
    """Header and digest of a checkpoint; no torch. Raises UnusableCheckpoint."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise UnusableCheckpoint(path, f"cannot be read ({exc.strerror})", "name a checkpoint that exists") from exc
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError) as exc:
        raise UnusableCheckpoint(
            path, f"is not a whole safetensors file ({exc})", "copy it again and compare its SHA-256"
        ) from exc
    return Checkpoint(path, digest, _metadata(path, header), shapes)


def load(path: Path, *, preprocessing: Collection[str] | None = None) -> tuple[DTViT, Checkpoint]:
    """The model in float32, in evaluation mode, on the CPU. Raises UnusableCheckpoint.

    `preprocessing`: versions that the caller can make; a checkpoint that was trained for none of them is refused.
    """
    from safetensors.torch import load_file

    checkpoint = describe(path)
    if preprocessing is not None and not set(preprocessing) & set(checkpoint.metadata.preprocessing):
        raise UnusableCheckpoint(
            checkpoint.path,
            f"was trained for preprocessing {', '.join(checkpoint.metadata.preprocessing)}, "
            f"and this program offers {', '.join(preprocessing)}",
            "use a checkpoint of this program's version, or retrain with dicom-node train",
        )
    model = _model(checkpoint, "meta")
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if wanted != dict(checkpoint.shapes):
        raise UnusableCheckpoint(
            checkpoint.path,
            f"its weights are not those of {checkpoint.metadata.encoder} ({_difference(wanted, checkpoint.shapes)})",
            "the metadata names another encoder than the weights come from, or timm has changed it: export it again",
        )
    if _not_stored(model):
        model = _model(checkpoint, "cpu")
    stored = load_file(checkpoint.path)
    state = {key: value.float() if value.is_floating_point() else value for key, value in stored.items()}
    model.load_state_dict(state, assign=True)
    return model.eval(), checkpoint


def save(path: Path, state: Mapping[str, torch.Tensor], metadata: Metadata) -> str:
    """Write weights as float16 in one step: at any moment `path` is whole, old or new. Returns the file's digest."""
    import torch
    from safetensors.torch import save as to_bytes

    stored = {
        key: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for key, value in state.items()
    }
    if not all(bool(value.isfinite().all()) for value in stored.values() if value.is_floating_point()):
        raise ValueError("weights that are not finite in float16 cannot be saved: the training has diverged")
    fields = {"format": FORMAT, **dataclasses.asdict(metadata)}
    content = to_bytes(stored, {HEADER_KEY: json.dumps(fields, sort_keys=True)})
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def _metadata(path: Path, header: Mapping[str, str]) -> Metadata:
    if HEADER_KEY not in header:
        raise UnusableCheckpoint(
            path, "is a safetensors file without DTViT metadata", "use a file written by dicom-node train"
        )
    try:
        fields = _printable(json.loads(header[HEADER_KEY]))
        found = fields.pop("format", None)
    except (ValueError, AttributeError, TypeError, RecursionError) as exc:
        raise UnusableCheckpoint(
            path, "its metadata is not a JSON object", "use a file written by dicom-node train"
        ) from exc
    if found != FORMAT:
        raise UnusableCheckpoint(
            path, f"its format is {found!r}, this program reads {FORMAT!r}", "use the program version that wrote it"
        )
    try:
        for key in ("slice_thresholds", "series_thresholds"):
            fields[key] = Thresholds(**fields[key])
        for key in ("preprocessing", "location_classes", "window_hu", "mean", "std", "limits"):
            if key in fields:
                fields[key] = tuple(fields[key])
        return Metadata(**fields)
    except (KeyError, TypeError, ValueError) as exc:
        raise UnusableCheckpoint(
            path, f"its metadata is incomplete or wrong ({exc})", "use a file written by dicom-node train"
        ) from exc


def _printable(value: Any) -> Any:
    """What JSON holds, with texts that cannot steer the terminal they are shown on. None is refused for a character:
    file names and licences are copied from anywhere, and a training ends by reading what it wrote."""
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in value)
    if isinstance(value, dict):
        return {_printable(key): _printable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_printable(each) for each in value]
    return value


def _not_stored(model: DTViT) -> list[torch.Tensor]:
    """What an encoder works out when it is made, and no checkpoint holds: Swin's table of positions."""
    stored = model.state_dict().keys()
    return [each for name, each in model.named_buffers() if name not in stored]


def _model(checkpoint: Checkpoint, device: str) -> DTViT:
    """With weights that are to be replaced; on "meta" none are drawn at random for that, and they need no memory."""
    import torch

    from dtvit.model import DTViT, UnknownEncoder

    metadata = checkpoint.metadata
    try:
        with torch.device(device):
            return DTViT(metadata.encoder, len(metadata.location_classes), metadata.head)
    except UnknownEncoder as exc:
        raise UnusableCheckpoint(checkpoint.path, str(exc), "install the timm version it was made with") from exc
    except ValueError as exc:
        raise UnusableCheckpoint(checkpoint.path, str(exc), "use a file written by dicom-node train") from exc


def _difference(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    for key, shape in wanted.items():
        if key not in found:
            return f"{key} is missing"
        if found[key] != shape:
            return f"{key} has shape {found[key]}, {shape} is needed"
    return f"{next(iter(set(found) - set(wanted)))} has no place in it"
