"""Numbers made on the host, sent to a GPU: in one transfer, which nothing waits for.

An ordinary copy to a GPU makes the host wait until the GPU has done all that was asked of it before, so the GPU is idle
while the host prepares the next request. A copy from pinned memory only takes its place in the queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

ALIGNED = 16  # bytes; where a tensor of any type may begin, and be read in the widest steps


def sent(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """The same numbers on the device; the given tensors themselves if the device is the host."""
    if device.type != "cuda":
        return [each.to(device) for each in tensors]
    box = packed(tensors, pinned=True)
    return list(unpacked(box.to(device, non_blocking=True), tensors))


def packed(tensors: Sequence[torch.Tensor], *, pinned: bool = False) -> torch.Tensor:
    """(bytes,) uint8: the tensors end to end. Torch reuses pinned memory only after the copy out of it is done."""
    box = torch.empty(sum(_room(each) for each in tensors), dtype=torch.uint8, pin_memory=pinned)
    for place, each in zip(unpacked(box, tensors), tensors, strict=True):
        place.copy_(each)
    return box


def unpacked(box: torch.Tensor, like: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Views of a box that tensors of these types and shapes were packed into."""
    start = 0
    for each in like:
        yield box[start : start + each.nbytes].view(each.dtype).view(each.shape)
        start += _room(each)


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // ALIGNED) * ALIGNED
