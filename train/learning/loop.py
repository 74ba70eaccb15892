"""The training loop: from pictures in memory to a checkpoint that the node can run.

A step's slices, augmentation and dropout follow from (seed, step, rank) alone, so there is no state of a random
generator to keep, and a run that was killed continues from its last saved state exactly as it would have gone on. Only
`--max-time` breaks this: then the schedule follows the clock. Files in the output folder, each whole at any moment:
`state.pt` to continue from, `best.safetensors` and `last.safetensors`, `log.csv`, `tensorboard/`; at the end what
`train.learning.result` writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from dtvit.inference import NotFinite, choose_device
from train.dataset.pictures import Pictures
from train.learning import computing, looking, result, state
from train.learning.batches import Batch, Batches
from train.learning.computing import Built
from train.learning.graphed import Graphed
from train.learning.learner import choose_patches, loss, patch_means
from train.learning.lessons import first_lessons
from train.learning.optimiser import Average, optimiser, set_rate
from train.learning.ranks import Ranks
from train.learning.result import BEST, LAST, Ended, Source
from train.learning.sampling import order
from train.learning.state import STATE, UnusableRun
from train.options import Settings
from train.progress import SAY_EVERY_S, Bar, Journal, Say, say_to_stderr, silent
from train.recipe import Recipe, defaults

ALL_PATCHES_FROM = 0.88  # of the schedule: from here on the model sees what it will see in use
ALL_PATCHES_SHARE = 0.1  # of the steps before that, so that background is not new by then
LESSONS_SHARE = 0.25  # of --max-time, at most, goes into the first lessons
DIVERGED = "the training has diverged: begin again in another folder with a lower learning_rate, with clip, or in fp32"


def fit(
    recipe: Recipe,
    settings: Settings,
    data: Pictures,
    source: Source,
    say: Say = say_to_stderr,
    ranks: Ranks | None = None,
    built: Built | None = None,
) -> Path:
    """Train, choose, calibrate, measure; returns the path of the checkpoint.

    `settings.output` exists and belongs to this run (`state.claimed`); `data` has passed `train.run.check`.
    `built`: the learner, if it was already built to see whether it can be.
    Raises UnusableRun, UnusableRecipe, UnusableCheckpoint, UnavailableWeights, UnavailableDevice, UnknownEncoder.
    """
    ranks = ranks or Ranks()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    run = Run(recipe, settings, data, source, say if ranks.first else silent, ranks, built)
    try:
        run.begin()
        run.train()
        path = settings.output / f"{recipe.name}.safetensors"
        if ranks.first:
            ended = Ended(run.step, run.elapsed_s / 60, run.device, ranks.count, run.start)
            path = result.finish(settings.output, recipe, data, source, ended, say)
    except OSError as exc:
        raise UnusableRun(
            f"{settings.output} cannot be written to ({exc}); what was saved before is intact: "
            "make room, and the same command continues from there"
        ) from exc
    return ranks.same(path)


class Run:
    """What changes from step to step."""

    def __init__(
        self,
        recipe: Recipe,
        settings: Settings,
        data: Pictures,
        source: Source,
        say: Say,
        ranks: Ranks,
        built: Built | None = None,
    ) -> None:
        ranks.check_batch(recipe)
        self.recipe, self.settings, self.source, self.say, self.ranks = recipe, settings, source, say, ranks
        self.device = choose_device(ranks.device or settings.device)
        self.precision = computing.precision(recipe.precision, self.device)
        self.autocast = computing.autocast(self.precision, self.device)
        self.learner, self.start = built or computing.built(recipe, settings.output)
        self.learner.to(self.device).to(memory_format=computing.memory_format(recipe, self.learner))
        self.average = Average(self.learner.model, recipe.ema)
        self.optimiser = optimiser(self.learner, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        training = data.of_part("train")
        self.order = order(recipe, training, replicated=source.replicated)
        self.batches = Batches(recipe, training, self.order, self.device, ranks)
        self.steps = recipe.steps or math.ceil(recipe.epochs * self.order.steps_an_epoch)
        self.evaluate_every = recipe.evaluate_every or self.order.steps_an_epoch
        self.validation = looking.some(data.of_part("validation"), recipe)
        self.step, self.elapsed_s, self.best, self.worse = 0, 0.0, math.inf, 0
        self.rows: list[dict[str, Any]] = []
        self.recent: list[torch.Tensor] = []  # losses since the last look
        self.called: torch.nn.Module | Graphed = self.learner
        say(
            f"{len(training)} slices of {len(np.unique(training.patient))} patients to train on, "
            f"{len(self.validation)} to validate on while training; {self.steps} steps of {recipe.batch}; "
            f"{self.device}, {self.precision}, {torch.get_num_threads()} threads; {self.start.told}; {source.label}"
        )

    def begin(self) -> None:
        """Continue from the saved state, or start: from scratch with the first lessons."""
        saved = state.read(self.settings.output / STATE, self.device)
        if saved is None:
            self._start_anew()
        else:
            self._continue(saved)
            self.say(f"continuing from step {self.step}")

    def _continue(self, saved: Mapping[str, Any]) -> None:
        """Raises UnusableRun where the state is another run's, or another version's."""
        state.same_run(self.settings.output, self._identity(), {**defaults(), **saved["run"]})
        if saved.get("shown", self.source.shown) != self.source.shown:  # older versions saved none
            raise UnusableRun(
                f"{self.settings.output} holds a run with the same manifest and other pictures: they have changed "
                "since, or were read by other versions of Pillow or OpenCV; restore them, or choose another "
                "output folder"
            )
        try:
            self._restore(saved)
        except (KeyError, RuntimeError, TypeError, ValueError) as exc:
            if state.lacks_memory(exc):
                raise
            raise UnusableRun(
                f"{self.settings.output / STATE} was saved by another version of this program, of torch or of timm "
                f"({' '.join(str(exc).split())[:200]}); continue with that one, or remove the file to begin again"
            ) from exc

    def _start_anew(self) -> None:
        started = time.monotonic()
        torch.manual_seed(self.recipe.seed)
        cost = 0.0
        if self.recipe.first_lessons and not self.recipe.from_scratch:
            self.say(f"no first lessons: {self.start.told}, and they are for random weights")
        elif self.recipe.first_lessons and self.ranks.first:
            cost = self._first_lessons()
        self.average.start()
        self.elapsed_s = time.monotonic() - started
        if cost:
            self.say(f"first lessons: loss {cost:.3f} after {self.elapsed_s:.0f} s")
            self.save()  # minutes, which a run that ends before its first save would take again

    def _first_lessons(self) -> float:
        """Their last loss; 0 if the encoder, or the data, are not made for them."""
        pictures, blood = self.batches.traced_middles()
        # their gradients are not scaled, which fp16 would need
        cast = computing.autocast("fp32", self.device) if self.precision == "fp16" else self.autocast
        limit = self.settings.max_time
        limit_s = limit * 60 * LESSONS_SHARE if limit else math.inf
        started = time.monotonic()
        with contextlib.closing(Bar(self.ranks.first)) as bar:

            def tell(done: float, text: str) -> None:
                self._tell(bar, done, text, time.monotonic() - started)

            return first_lessons(
                self.learner, pictures, blood, self.recipe.first_lessons, cast, limit_s=limit_s, tell=tell
            )

    def _tell(self, bar: Bar, done: float, text: str, took_s: float) -> None:
        bar.show(done, text)
        if not bar.shown:
            self.say(f"{text}, about {took_s * (1 - done) / max(done, 1e-6) / 60:.0f} min left")

    def _together(self) -> torch.nn.Module | Graphed:
        """What training calls: the learner; with several ranks, all begin as the first and average their gradients."""
        if computing.can_be_graphed(self.recipe, self.learner, self.device, self.ranks.count):
            return Graphed(self.learner, self.autocast)
        if self.recipe.compile:
            self.learner.compile()
        if self.ranks.count == 1:
            return self.learner
        return DistributedDataParallel(self.learner, gradient_as_bucket_view=True)

    def _identity(self) -> dict[str, Any]:
        return {**self.recipe.recorded(), "data": self.source.digest}

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self.learner.load_state_dict(saved["learner"])
        if self.recipe.ema:
            self.average.model.load_state_dict(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.scaler.load_state_dict(saved["scaler"])
        self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
        self.best, self.worse, self.rows = saved["best"], saved["worse"], saved["rows"]
        self.recent = list(saved.get("recent", torch.zeros(0)).to(self.device))

    def save(self) -> None:
        if not self.ranks.first:
            return
        kept = {
            "run": self._identity(),
            "shown": self.source.shown,
            "start": dataclasses.asdict(self.start),
            "learner": self.learner.state_dict(),
            "average": self.average.model.state_dict() if self.recipe.ema else None,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "best": self.best,
            "worse": self.worse,
            "rows": self.rows,
            "recent": torch.stack(self.recent) if self.recent else torch.zeros(0),
        }
        state.save(self.settings.output / STATE, kept)

    def progress(self) -> float:
        """Share of the schedule that is done: by steps, or by time if that runs out sooner."""
        limit = self.settings.max_time
        by_time = self.ranks.same(self.elapsed_s) / (limit * 60) if limit else 0.0
        return min(1.0, max(self.step / self.steps, by_time))

    def train(self) -> None:
        """Train to the end of the schedule, or until patience runs out."""
        self.called = self._together()
        with contextlib.ExitStack() as stack:
            bar = Bar(self.ranks.first)
            stack.callback(bar.close)
            journal = None
            if self.ranks.first:
                journal = Journal(self.settings.output, self.rows, self.say)
                stack.callback(journal.close)
            self._steps(journal, bar)

    def _steps(self, journal: Journal | None, bar: Bar) -> None:
        started, before, first = time.monotonic(), self.elapsed_s, self.step
        saved_at = said_at = started
        done = self.progress()
        while done < 1 and not self._patience_is_over():
            self.recent.append(self.take_step(done))
            self.step += 1
            now = time.monotonic()
            self.elapsed_s = before + now - started
            done = self.progress()
            looking = self.step % self.evaluate_every == 0 or done >= 1
            if looking:
                self._look(journal, self.ranks.sum(_mean(self.recent)))
                self.recent = []
            elif now - said_at > SAY_EVERY_S:
                rate = (self.step - first) * self.recipe.batch / max(now - started, 1e-6)
                loss_of_all = self.ranks.count * _mean(self.recent[-50:])
                text = f"step {self.step} of {self.steps}, loss {loss_of_all:.3f}, {rate:.0f} slices/s"
                self._tell(bar, done, text, self.elapsed_s)
            if looking or now - said_at > SAY_EVERY_S:
                said_at = now
            if looking or now - saved_at > self.settings.save_every_s:
                self.elapsed_s = before + time.monotonic() - started
                self.save()
                saved_at = time.monotonic()

    def _patience_is_over(self) -> bool:
        over = bool(self.recipe.patience) and self.ranks.same(self.worse) >= self.recipe.patience
        if over:
            self.say(f"no improvement for {self.worse} looks; the run ends at step {self.step}")
        return over

    def take_step(self, done: float) -> torch.Tensor:
        """One step of the optimiser; returns this rank's part of the batch's mean loss, on the device.

        On a GPU nothing here waits for the device, except for fp16's check of its gradients: the host runs steps ahead.
        """
        lot = np.random.default_rng(seed_of(self.recipe.seed, self.step, 0)).random()  # the same on all ranks
        some = done < ALL_PATCHES_FROM and lot >= ALL_PATCHES_SHARE
        torch.manual_seed(seed_of(self.recipe.seed, self.step, 1 + self.ranks.number))  # all below follows from this
        set_rate(self.optimiser, self.recipe, done)
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        parts = list(range(self.recipe.accumulation))
        for number, batch in zip(parts, self.batches.at(self.step), strict=True):
            with self._not_yet_shared(number < parts[-1]):
                total += self._learn(batch, some)
        if self.recipe.clip:
            self.scaler.unscale_(self.optimiser)
            torch.nn.utils.clip_grad_norm_(self.learner.parameters(), self.recipe.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.follow(self.step)
        return total

    def _learn(self, batch: Batch, some: bool) -> torch.Tensor:
        kept = patch_blood = None
        if self.learner.patchwise:
            grid = self.learner.grid()
            patch_blood = patch_means(batch.blood, grid)  # (B, N)
            if some and 0 < self.recipe.tokens < patch_blood.shape[1]:
                kept = choose_patches(patch_means(batch.pictures, grid), patch_blood, self.recipe.tokens)
                patch_blood = patch_blood.gather(1, kept)
        with contextlib.nullcontext() if isinstance(self.called, Graphed) else self.autocast:
            outputs = self.called(batch.pictures, kept)
        cost = loss(outputs, batch, patch_blood, self.recipe)
        # the ranks' gradients are averaged, and the loss is a share of the mean over all of them
        self.scaler.scale(cost * self.ranks.count).backward()  # type: ignore[no-untyped-call]
        return cost.detach()

    def _not_yet_shared(self, unfinished: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients of an unfinished batch stay on their rank."""
        if unfinished and isinstance(self.called, DistributedDataParallel):
            return self.called.no_sync()
        return contextlib.nullcontext()

    def _look(self, journal: Journal | None, training_loss: float) -> None:
        """Evaluate on the validation part; keeps the weights, and the best so far."""
        if journal is None:
            return
        if not math.isfinite(training_loss):
            raise UnusableRun(f"at step {self.step} the loss is not finite; {DIVERGED}")
        try:
            logits = looking.logits(self.average.model, self.validation, self.recipe, self.precision)
        except NotFinite as exc:
            raise UnusableRun(f"at step {self.step} {exc}; {DIVERGED}") from exc
        score = looking.cost(logits, self.validation)
        row = {
            "step": self.step,
            "minutes": round(self.elapsed_s / 60, 2),
            "learning_rate": self.optimiser.param_groups[-1]["lr"],
            "training_loss": round(training_loss, 5),
            "validation_loss": round(score, 5),
            **looking.figures(logits, self.validation),
            "split": self.source.label,
        }
        journal.add(row)
        self.say(", ".join(f"{key} {value}" for key, value in row.items()))
        self.worse += 1
        weights = self.average.model.state_dict()
        if score < self.best:
            self.best, self.worse = score, 0
            result.keep(self.settings.output / BEST, self.recipe, self.source, self.start, weights, self.step)
        result.keep(self.settings.output / LAST, self.recipe, self.source, self.start, weights, self.step)


def seed_of(seed: int, step: int, stream: int) -> int:
    """32 bits that differ with each of the three; torch's CPU generator uses no more of a seed than that."""
    return int(np.random.SeedSequence((seed, step, stream)).generate_state(1)[0])


def _mean(losses: list[torch.Tensor]) -> float:
    return float(torch.stack(losses).mean()) if losses else math.nan
