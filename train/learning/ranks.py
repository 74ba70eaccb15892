"""Training in several processes at once, as torchrun starts them; one process is the special case of one rank."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from train.recipe import Recipe, UnusableRecipe

PATIENCE = datetime.timedelta(hours=3)  # the others wait while the first rank makes phantoms, or measures

GRACE_S = 2.0  # torchrun ends all ranks when one has ended: the one that failed may still be writing why
LOST = ("gloo", "nccl", "connection")  # in torch's message about a rank that does not answer; it has no class for it

T = TypeVar("T")


class LostRank(Exception):
    """Another rank has ended; the text says so, and that the other rank itself says why."""


@dataclass(frozen=True)
class Ranks:
    number: int = 0
    count: int = 1
    device: str | None = None
    """Of this rank, if torchrun gives each a GPU."""

    @property
    def first(self) -> bool:
        """Whether this one speaks, measures and writes."""
        return self.number == 0

    def check_batch(self, recipe: Recipe) -> None:
        """Raises UnusableRecipe if a batch cannot be dealt out evenly."""
        if recipe.batch % (self.count * recipe.accumulation):
            raise UnusableRecipe(
                f"a batch of {recipe.batch} cannot be shared by {self.count} ranks in {recipe.accumulation} parts each"
            )

    def same(self, value: T) -> T:
        """The first rank's value, on all of them; every rank must call this."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, value: float) -> float:
        """Over all ranks; every rank must call this."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)


@contextlib.contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The ranks that torchrun started, else one. `device`: as asked for; `auto` and `cuda` become one GPU each.

    Raises LostRank on those that wait for one that has ended.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    number, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        torch.cuda.set_device(local)
    # gloo beside nccl: ranks send each other Python objects on the CPU
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(number, count, f"cuda:{local}" if on_gpu else None)
    except RuntimeError as exc:
        if not any(each in str(exc).lower() for each in LOST):
            raise
        time.sleep(GRACE_S)
        raise LostRank(f"rank {number} has lost another rank, which itself says why ({str(exc)[:200]})") from exc
    finally:
        dist.destroy_process_group()
