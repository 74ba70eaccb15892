"""Pictures a second of our training loop beside a bare loop over the same model; and what of the time goes into data.

    python benchmarks/training.py                                         # ViT-Ti/16 on one CPU thread
    python benchmarks/training.py --encoder vit_large_patch16_224 --batch 32 --device cuda --precision bf16 --steps 20
    python benchmarks/training.py --recipe v1 v2 --device cuda --precision bf16 --rounds 4 --steps 10 --epoch 19155

The last takes encoder, batch, optimiser and augmentation from recipes, and tells how long all their epochs take where
one shows so many slices (19,155: the papers' data, replicated, patients apart, seed 0).

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
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it

from dtvit.model import DTViT
from train.dataset.pictures import Pictures
from train.learning.computing import autocast
from train.learning.loop import Run
from train.learning.ranks import Ranks
from train.learning.result import Source
from train.options import Settings, positive
from train.recipe import Recipe, read

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
    run = Run(recipe, settings, data, source, lambda _text: None, Ranks())
    run.called = run._together()
    return run


def bare_loop(recipe: Recipe, data: Pictures, device: torch.device, precision: str) -> Callable[[], None]:
    """What a person would write in ten lines."""
    torch.manual_seed(0)
    with device:  # drawing the weights of ViT-L takes a CPU seconds
        model = DTViT(recipe.encoder, recipe.location_outputs).train()
    if recipe.optimiser == "sgd":
        optimiser: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, fused=True
        )
    else:
        optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, fused=True)  # as ours
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


def recipes_of(given: argparse.Namespace) -> list[Recipe]:
    """Those that are named, else one of the encoder and batch given; without their weights and their order."""
    bare = {"augmentation": "none", "sampling": "plain", "precision": given.precision, "pretrained": "none"}
    bare |= {"graphs": not given.kernel_by_kernel}
    if given.recipe:
        return [replace(read(name), **bare) for name in given.recipe]
    named = {"name": given.encoder, "encoder": given.encoder, "batch": given.batch}
    return [Recipe(**named, **bare, steps=1_000_000, learning_rate=1e-5)]


def measured(recipe: Recipe, augmentation: str, given: argparse.Namespace) -> None:
    """Print pictures a second of both loops, what of a step goes into data, and how long the recipe takes."""
    data = pictures()
    ours = our_loop(recipe, data, given.device)
    loops = {"ours": lambda: step_of(ours), "bare": bare_loop(recipe, data, ours.device, ours.precision)}
    for loop in loops.values():
        timed(loop, 2, ours.device)
    turns: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(given.rounds):
        for name in ("ours", "bare") if turn % 2 else ("bare", "ours"):
            turns[name].append(recipe.batch * given.steps / timed(loops[name], given.steps, ours.device))
    print(f"{recipe.name}: {recipe.encoder}, {recipe.batch} a batch, {ours.device}, {ours.precision}")
    for name, rates in turns.items():
        print(f"{name}: {statistics.median(rates):.1f} pictures/s (median of {len(rates)} turns)")
    ratio = statistics.median(mine / its for mine, its in zip(turns["ours"], turns["bare"], strict=True))
    print(f"ours / bare: {ratio:.3f}")

    gathered = timed(lambda: [list(ours.batches.at(ours.step))], given.steps * 4, ours.device) / 4
    del loops["bare"]  # what follows is of our loop alone, its memory too
    ours.batches.recipe = replace(recipe, augmentation=augmentation)  # the same loop, augmented from here on
    timed(loops["ours"], 2, ours.device)
    changed = timed(lambda: [list(ours.batches.at(ours.step))], given.steps * 4, ours.device) / 4
    if ours.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(ours.device)
    whole = timed(loops["ours"], given.steps, ours.device)
    share = (changed - gathered) / whole
    print(f"of a step: gathering {gathered / whole:.1%}, augmentation '{augmentation}' {share:.1%}")
    rate = recipe.batch * given.steps / whole
    print(f"with it: {rate:.1f} pictures/s")
    if ours.device.type == "cuda":
        print(f"GPU memory: {torch.cuda.max_memory_allocated(ours.device) / 2**30:.1f} GiB")
    if recipe.epochs and given.epoch:
        hours = recipe.epochs * given.epoch / rate / 3600
        print(f"{recipe.epochs:g} epochs of {given.epoch:,} slices: {hours:.2f} hours, without looks at validation")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument(
        "--recipe", nargs="+", choices=("v1", "v2", "robust"), help="their encoder, batch, augmentation instead"
    )
    parser.add_argument("--epoch", type=positive, help="slices that an epoch shows")
    parser.add_argument("--steps", type=positive, default=3, help="a turn")
    parser.add_argument("--rounds", type=positive, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--augmentation", choices=("none", "paper", "scanner"), default="scanner")
    parser.add_argument("--kernel-by-kernel", action="store_true", help="on a GPU, our loop without CUDA graphs")
    parser.add_argument("--threads", type=positive, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for number, recipe in enumerate(recipes_of(given)):
        measured(recipe, read(given.recipe[number]).augmentation if given.recipe else given.augmentation, given)
    return 0


def step_of(run: Run) -> None:
    run.take_step(0.5)
    run.step += 1


if __name__ == "__main__":
    sys.exit(main())
