"""Pictures a second of our training loop beside a bare loop over the same model; and what of the time goes into data.

    python benchmarks/training.py                                         # ViT-Ti/16 on one CPU thread
    python benchmarks/training.py --encoder vit_large_patch16_224 --batch 32 --device cuda --precision bf16 --steps 20

Both loops train the same DTViT on the same pictures in memory (uint8, 256 x 256), same batch, precision and optimiser,
without augmentation; they take turns, a few steps each. On the CPU process time is counted, so that what else runs on
the machine does not matter; on CUDA it is wall time, with the device waited for. The share of data is measured in our
loop alone, with the augmentation named.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it

from dtvit.model import DTViT
from train.computing import autocast
from train.data import Pictures
from train.loop import Run
from train.options import Settings
from train.ranks import Ranks
from train.recipe import Recipe
from train.result import Source

SLICES = 512


def pictures() -> Pictures:
    """Noise, half of it labelled as bleeding: what is timed depends on no content."""
    rng = np.random.default_rng(0)
    number = np.arange(SLICES)
    presence = (number % 2).astype(np.int8)
    return Pictures(
        pictures=rng.integers(0, 256, (SLICES, 256, 256), np.uint8),
        blood=np.zeros((SLICES, 56, 56), np.uint8),
        traced=np.zeros(SLICES, bool),
        presence=presence,
        location=np.where(presence == 1, number // 2 % 3, -1).astype(np.int8),
        patient=(number // 8).astype(np.int32),
        series=(number // 8).astype(np.int32),
        part=np.where(number % 16 < 14, 0, 1).astype(np.int8),
        origin=np.ones(SLICES, np.int8),
        volume_ml=np.full(SLICES, np.nan, np.float32),
        area_mm2=np.full(SLICES, np.nan, np.float32),
    )


def our_loop(recipe: Recipe, data: Pictures, device: str) -> Run:
    settings = Settings(output=Path(tempfile.gettempdir()), device=device)
    source = Source("noise", "none", ("none",))
    return Run(recipe, settings, data, source, lambda _text: None, Ranks())


def bare_loop(recipe: Recipe, data: Pictures, device: torch.device, precision: str) -> Callable[[], None]:
    """What a person would write in ten lines."""
    torch.manual_seed(0)
    model = DTViT(recipe.encoder).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)  # as ours
    training = data.of_part("train")
    start = (training.pictures.shape[1] - 224) // 2
    images = torch.from_numpy(training.pictures[:, start : start + 224, start : start + 224].copy()).to(device)
    presence, location = (
        torch.from_numpy(each.astype(np.int64)).to(device) for each in (training.presence, training.location)
    )

    def step() -> None:
        rows = torch.randint(len(images), (recipe.batch,), device=device)
        batch = ((images[rows][:, None].float() / 255 - 0.5) / 0.5).expand(-1, 3, -1, -1)
        with autocast(precision, device):
            found = model(batch)
        cost = F.cross_entropy(found[0].float(), presence[rows]) + F.cross_entropy(
            found[1].float(), location[rows], ignore_index=-1
        )
        optimiser.zero_grad()
        cost.backward()
        optimiser.step()

    return step


def timed(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Seconds for so many steps: of the process on a CPU, of the clock on a GPU."""
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize(device)
    started = clock()
    for _ in range(steps):
        step()
    if on_gpu:
        torch.cuda.synchronize(device)
    return clock() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3, help="a turn")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--augmentation", choices=("none", "paper", "scanner"), default="scanner")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = pictures()
    recipe = Recipe(
        name="benchmark",
        encoder=given.encoder,
        batch=given.batch,
        steps=1_000_000,
        learning_rate=1e-5,
        precision=given.precision,
    )
    ours = our_loop(recipe, data, given.device)
    loops = {"ours": lambda: step_of(ours), "bare": bare_loop(recipe, data, ours.device, ours.precision)}
    for loop in loops.values():
        timed(loop, 2, ours.device)
    turns: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(given.rounds):
        for name in ("ours", "bare") if turn % 2 else ("bare", "ours"):
            turns[name].append(given.batch * given.steps / timed(loops[name], given.steps, ours.device))
    for name, rates in turns.items():
        print(f"{name}: {statistics.median(rates):.1f} pictures/s (median of {len(rates)} turns)")
    ratio = statistics.median(mine / its for mine, its in zip(turns["ours"], turns["bare"], strict=True))
    print(f"ours / bare: {ratio:.3f}")

    augmented = our_loop(recipe.changed({"augmentation": given.augmentation}), data, given.device)
    gathered = timed(lambda: [list(ours.batches.at(ours.step))], given.steps * 4, ours.device) / 4
    changed = timed(lambda: [list(augmented.batches.at(augmented.step))], given.steps * 4, ours.device) / 4
    whole = timed(lambda: step_of(augmented), given.steps, ours.device)
    share = (changed - gathered) / whole
    print(f"of a step: gathering {gathered / whole:.1%}, augmentation '{given.augmentation}' {share:.1%}")
    return 0


def step_of(run: Run) -> None:
    run.take_step(0.5)
    run.step += 1


if __name__ == "__main__":
    sys.exit(main())
