"""From pictures to probabilities: one checkpoint on one device, in the precision that the device is fast at."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from dtvit import checkpoint as checkpoints
from dtvit.checkpoint import Checkpoint
from dtvit.findings import LOCATIONS
from dtvit.model import INPUT_PIXELS, DTViT
from dtvit.vit.attention import InSteps
from dtvit.vit.classtoken import class_token, is_all_that_is_read
from dtvit.vit.onechannel import of_one_channel
from dtvit.vit.relevance import relevance

PART = 8
"""The least number of slices for which a thread goes through the model by itself. Threads that share each step wait for
one another at its end, longer if other processes want the cores."""
BATCH = 32  # slices of one series at a time; a ViT-L then needs less than 1 GiB on the CPU

Precision = Literal["auto", "fp32", "bf16"]


class UnavailableDevice(Exception):
    """The requested device is not on this machine."""


class NotFinite(ArithmeticError):
    """The model gave a number that is not finite, from which nothing may be concluded."""


@dataclass(frozen=True)
class Predictions:
    presence: NDArray[np.float64]
    """(N,): probability that the slice shows intracerebral hemorrhage."""
    location: NDArray[np.float64]
    """(N, 3): probabilities in the order of `findings.LOCATIONS`, summing to 1; given that there is hemorrhage."""


def choose_device(wanted: str = "auto") -> torch.device:
    """`auto`: cuda, else mps, else cpu. Raises UnavailableDevice for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, available in there.items() if available))
    kind, _, index = wanted.partition(":")
    available = there.get(kind, False) and (not index or (index.isdecimal() and _has(kind, int(index))))
    if not available:
        found = ", ".join(name for name, is_there in there.items() if is_there)
        raise UnavailableDevice(f"device {wanted!r} is not available; this machine has: {found} (or set auto)")
    return torch.device(wanted)


def _has(kind: str, index: int) -> bool:
    return index < torch.cuda.device_count() if kind == "cuda" else index == 0


def choose_precision(wanted: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """`auto`: bf16 where the device multiplies bfloat16 matrices itself, else fp32; docs/decisions/0012."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_has("avx512_bf16", "amx_bf16") else "fp32"


def _cpu_has(*names: str) -> bool:
    """Whether the CPU has any of these; what an older torch does not report counts as missing."""
    tell: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    has = tell()
    return any(has.get(name) for name in names)


def _rounded(encoder: nn.Module) -> nn.Module:
    """A copy that computes in bfloat16; the statistics of batch normalisation need more than its three digits."""
    rounded = deepcopy(encoder).to(torch.bfloat16)
    for module in rounded.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    return rounded


def _encoding(
    encoder: nn.Module, grey: bool, precision: Precision
) -> tuple[Callable[[torch.Tensor], torch.Tensor], int]:
    """A faster function for the encoder's features (B, D) of a batch, and how many channels it takes; `grey`: all are
    the same. Weights are rounded once instead of in each pass; relevance maps use the encoder itself, in fp32.
    """
    channels = 3
    if grey and is_all_that_is_read(encoder) and (of_one := of_one_channel(encoder)) is not None:
        encoder, channels = of_one, 1
    if precision == "bf16":
        encoder = _rounded(encoder)
    return (partial(class_token, encoder) if is_all_that_is_read(encoder) else encoder), channels


class Classifier:
    """A loaded checkpoint. Equal batches give equal numbers; another batch size may move the sixth digit in fp32, the
    third in bf16.
    """

    def __init__(
        self,
        model: DTViT,
        checkpoint: Checkpoint,
        device: torch.device,
        batch: int = BATCH,
        precision: Precision = "fp32",
    ) -> None:
        self.checkpoint = checkpoint
        self.device = device
        self.precision = choose_precision(precision, device)
        self._batch = batch
        self._in_steps = self.precision == "bf16" and device.type == "cpu" and not _cpu_has("amx_bf16")
        metadata = checkpoint.metadata
        grey = len(set(metadata.mean)) == len(set(metadata.std)) == 1
        self._mean, self._std = (
            torch.tensor(values[: 1 if grey else 3], device=device).view(1, -1, 1, 1)
            for values in (metadata.mean, metadata.std)
        )
        self._model = model.to(device).eval()
        self._encode, self._channels = _encoding(self._model.encoder, grey, self.precision)
        threads = torch.get_num_threads()
        self._turn = Lock()
        self._parts = max(1, min(threads, batch // PART)) if device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._parts, "model", torch.set_num_threads, (threads // self._parts,))

    @property
    def aside(self) -> bool:
        """Whether it computes on another device, leaving the CPU free meanwhile."""
        return self.device.type != "cpu"

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        device: str = "auto",
        *,
        threads: int | None = None,
        batch: int = BATCH,
        precision: Precision = "fp32",
        preprocessing: Collection[str] | None = None,
    ) -> Classifier:
        """The checkpoint at `path`, or the shipped one. Raises UnusableCheckpoint and UnavailableDevice.

        `threads` sets torch's CPU threads for the whole process; `preprocessing`: see `dtvit.checkpoint.load`.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        chosen = choose_device(device)
        model, checkpoint = checkpoints.load(path or checkpoints.SHIPPED, preprocessing=preprocessing)
        return cls(model, checkpoint, chosen, batch, precision)

    def warm_up(self) -> None:
        """Run one full batch of zeros: kernels are chosen and memory is taken before a patient's first slice comes."""
        self.predict(np.zeros((self._batch, INPUT_PIXELS, INPUT_PIXELS), np.uint8))

    def predict(self, inputs: NDArray[np.uint8]) -> Predictions:
        """`inputs`: (N, 224, 224) uint8, as `dtvit.preprocess` makes them; N may be 0. Raises NotFinite.

        Two threads may call at the same time; a GPU is then given the second's batch while it computes the first's.
        """
        _check(inputs)
        presence, location = np.empty(len(inputs)), np.empty((len(inputs), len(LOCATIONS)))
        for start in range(0, len(inputs), self._batch):
            part = slice(start, min(start + self._batch, len(inputs)))
            presence[part], location[part] = self._by_parts(inputs[part])
        if not (np.isfinite(presence).all() and np.isfinite(location).all()):
            raise NotFinite(f"checkpoint {self.checkpoint.digest[:12]} gave a probability that is not a finite number")
        return Predictions(presence, location)

    def relevance(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Where the presence head looked in `inputs`, as `predict` takes them: (N, 224, 224), 0..1, see
        `vit.relevance`; bilinear between the patches. Raises NoAttention (not every encoder has maps) and NotFinite.
        """
        _check(inputs)
        maps = np.empty(inputs.shape, np.float32)
        for i in range(len(inputs)):  # one at a time: each keeps in memory what its gradient needs
            try:
                seen = relevance(self._model, self._images(inputs[i : i + 1], 3))  # (1, rows, columns)
            except FloatingPointError as exc:
                raise NotFinite(f"checkpoint {self.checkpoint.digest[:12]}: {exc}") from exc
            grid = torch.from_numpy(seen)
            maps[i] = functional.interpolate(grid[None], inputs.shape[1:], mode="bilinear")[0, 0].numpy()
        return maps

    def _images(self, inputs: NDArray[np.uint8], channels: int) -> torch.Tensor:
        """(B, channels, 224, 224), normalised, on the device."""
        pixels = torch.from_numpy(np.ascontiguousarray(inputs))  # (B, 224, 224)
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.device, non_blocking=True)
        return ((pixels[:, None].float() / 255 - self._mean) / self._std).expand(-1, channels, -1, -1)

    def _by_parts(self, inputs: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One batch, by as many threads as it has parts."""
        parts = min(self._parts, len(inputs) // PART)
        if parts < 2:
            return self._forward(inputs)
        found = list(self._pool.map(self._forward, np.array_split(inputs, parts)))
        return np.concatenate([presence for presence, _ in found]), np.concatenate([location for _, location in found])

    @torch.inference_mode()
    def _forward(self, inputs: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # Two batches given to a device at the same time end at the same time, and it then waits until others follow
        # them; given in turn, the second is there when the first ends.
        with self._turn if self.aside else nullcontext():
            images = self._images(inputs, self._channels)
            with InSteps() if self._in_steps else nullcontext():
                features = self._encode(images.bfloat16() if self.precision == "bf16" else images).float()  # (B, D)
            # The heads cost nothing and stay in fp32: a logit of 5 in bfloat16 is good to 0.03.
            presence = self._model.presence(features)  # (B, 2)
            # Softmax over three locations alone is what is left of four after "none" is dropped and the rest scaled.
            location = self._model.location(features)[:, : len(LOCATIONS)]
            logits = _on_host(torch.cat([presence, location], 1))
        metadata, of_both = self.checkpoint.metadata, logits().double()
        return (
            (of_both[:, :2] / metadata.presence_temperature).softmax(1)[:, 1].numpy(),
            (of_both[:, 2:] / metadata.location_temperature).softmax(1).numpy(),
        )


def _on_host(result: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Begin to fetch it, ahead of anything given to the device later; the returned function waits until it is there."""
    if not result.is_cuda:
        fetched = result.cpu()
        return lambda: fetched
    fetched = result.to("cpu", non_blocking=True)  # pinned, and not to be read before the event
    there = torch.cuda.current_stream(result.device).record_event()

    def wait() -> torch.Tensor:
        there.synchronize()
        return fetched

    return wait


def _check(inputs: NDArray[np.uint8]) -> None:
    if inputs.dtype != np.uint8 or inputs.ndim != 3 or inputs.shape[1:] != (INPUT_PIXELS, INPUT_PIXELS):
        raise ValueError(
            f"inputs must be uint8 of shape (N, {INPUT_PIXELS}, {INPUT_PIXELS}), "
            f"got {inputs.dtype} of shape {inputs.shape}"
        )
