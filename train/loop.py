"""The training loop: from pictures in memory to a checkpoint that the node can run.

A step's order, augmentation and dropout follow from (seed, step) alone, so a run that was killed goes on from its last
saved state exactly as it would have gone. Files in the output folder, each whole at any moment: `state.pt` to go on
from, `best.safetensors` (the best so far), `log.csv`; at the end `NAME.safetensors`, `metrics.json`, `MODEL-CARD.md`.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import json
import math
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from numpy.typing import NDArray

from dtvit.checkpoint import Metadata, describe, load, save, write_whole
from dtvit.findings import Thresholds
from dtvit.inference import choose_device
from dtvit.model import DTViT
from train.augment import augment
from train.card import model_card
from train.data import Pictures
from train.evaluation import Logits, calibrate, measure
from train.learner import Learner, choose_patches, loss
from train.lessons import first_lessons
from train.options import Options
from train.start import start_well

WARM_UP = 0.05  # of the schedule
ALL_PATCHES_FROM = 0.88  # of the schedule: from here on the model sees what it will see in use
ALL_PATCHES_SHARE = 0.1  # of the steps before, so that background is nothing new then
EMA_DECAY = 0.998
CLIP = 1.0
UNCLEAR_SHARE = 0.06  # of a batch: slices with too little blood to call teach the patches alone
VALIDATION_LIMIT = 500  # slices looked at while training; all of them at the end
SLOW_EVALUATION_BATCH = 64

Say = Callable[[str], None]


class UnusableRun(Exception):
    """The output folder holds a run with other settings; the text names them."""


@dataclass(frozen=True)
class Source:
    """Where the pictures come from, as the checkpoint will tell it."""

    training_data: str
    patients_seen: str
    preprocessing: tuple[str, ...]


def say_to_stderr(text: str) -> None:
    sys.stderr.write(f"{datetime.datetime.now().astimezone():%H:%M:%S} {text}\n")
    sys.stderr.flush()


def fit(options: Options, data: Pictures, source: Source, say: Say = say_to_stderr) -> Path:
    """Train, choose the best, calibrate, measure; path of the checkpoint. Raises UnusableRun, UnusableCheckpoint."""
    options.output.mkdir(parents=True, exist_ok=True)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    run = _Run(options, data, say)
    run.begin()
    run.train(source)
    return _finish(options, data, source, run.device, say, run.step, run.elapsed_s)


class _Run:
    """What changes from step to step."""

    def __init__(self, options: Options, data: Pictures, say: Say) -> None:
        self.options, self.say = options, say
        self.device = choose_device(options.device)
        self.autocast = _autocast(options.precision, self.device)
        torch.manual_seed(options.seed)
        self.learner = Learner(_start(options)).to(self.device)
        self.average = {key: value.detach().clone() for key, value in self.learner.model.state_dict().items()}
        self.optimiser = _optimiser(self.learner, options)
        self.step, self.elapsed_s, self.best = 0, 0.0, math.inf
        self.rows: list[dict[str, Any]] = []
        training = data.of_part("train")
        self.images = torch.from_numpy(training.pictures).to(self.device)
        self.blood = torch.from_numpy(training.blood).to(self.device)
        self.presence = torch.from_numpy(training.presence.astype(np.int64)).to(self.device)
        self.location = torch.from_numpy(training.location.astype(np.int64)).to(self.device)
        self.weights = torch.from_numpy(_sampling(training))
        self.validation = _first_series(data.of_part("validation"), VALIDATION_LIMIT)
        say(
            f"{len(training)} slices of {len(np.unique(training.patient))} heads to train on, "
            f"{len(self.validation)} to validate on while training; {self.device}, "
            f"{'bf16' if self.autocast else 'fp32'}, {torch.get_num_threads()} threads"
        )

    @property
    def state_path(self) -> Path:
        return self.options.output / "state.pt"

    def begin(self) -> None:
        """Go on from the saved state, or start anew with the first lessons."""
        if self.state_path.exists():
            self._resume()
            return
        started = time.monotonic()
        torch.manual_seed(self.options.seed)
        steps = 0 if self.options.start_from else self.options.first_lessons
        cost = first_lessons(self.learner, self.images, self.blood, steps, self.autocast)
        self.average = {key: value.detach().clone() for key, value in self.learner.model.state_dict().items()}
        self.elapsed_s = time.monotonic() - started
        self.say(f"first lessons: loss {cost:.3f} after {self.elapsed_s:.0f} s")

    def _resume(self) -> None:
        try:
            state = torch.load(self.state_path, map_location=self.device, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as exc:
            raise UnusableRun(f"{self.state_path} cannot be read ({exc}); remove it to begin again") from exc
        mine = json.loads(json.dumps(self.options.recorded()))
        other = json.loads(state["options"])
        differing = sorted(key for key in mine | other if mine.get(key) != other.get(key))
        if differing:
            raise UnusableRun(
                f"{self.options.output} holds a run with another "
                + ", ".join(f"{key} ({other.get(key)}, not {mine.get(key)})" for key in differing)
                + "; give it the same options, or choose another output folder"
            )
        self.learner.load_state_dict(state["learner"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.elapsed_s, self.best = state["step"], state["elapsed_s"], state["best"]
        self.rows = json.loads(state["rows"])
        self.say(f"going on from step {self.step}")

    def save(self) -> None:
        buffer = io.BytesIO()
        state = {
            "options": json.dumps(self.options.recorded()),
            "learner": self.learner.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "best": self.best,
            "rows": json.dumps(self.rows),
        }
        torch.save(state, buffer)
        write_whole(self.state_path, buffer.getvalue())
        _write_csv(self.options.output / "log.csv", self.rows)

    def progress(self) -> float:
        """Share of the schedule that is done: by steps, or by time where that is spent faster."""
        limit = self.options.max_minutes
        by_time = self.elapsed_s / (limit * 60) if limit else 0.0
        return min(1.0, max(self.step / self.options.steps, by_time))

    def train(self, source: Source) -> None:
        started, before = time.monotonic(), self.elapsed_s
        saved_at = said_at = started
        recent: list[float] = []
        while self.progress() < 1:
            recent.append(self._step())
            self.step += 1
            now = time.monotonic()
            self.elapsed_s = before + now - started
            due = self.step % self.options.evaluate_every == 0 or self.progress() >= 1
            if due:
                self._evaluate(source, float(np.mean(recent)))
                recent = []
            elif now - said_at > 15:
                done = self.progress()
                left_s = self.elapsed_s * (1 - done) / max(done, 1e-6)
                rate = self.step * self.options.batch / max(self.elapsed_s, 1e-6)
                self.say(
                    f"step {self.step}, {done:.0%}, loss {np.mean(recent[-50:]):.3f}, {rate:.0f} slices/s, "
                    f"about {left_s / 60:.0f} min left"
                )
            if due or now - said_at > 15:
                said_at = now
            if due or now - saved_at > self.options.save_every_s:
                self.elapsed_s = before + time.monotonic() - started
                self.save()
                saved_at = time.monotonic()

    def _step(self) -> float:
        options, done = self.options, self.progress()
        torch.manual_seed((options.seed << 32) + self.step)  # all that is drawn below follows from this
        for group in self.optimiser.param_groups:
            group["lr"] = options.learning_rate * _schedule(done)
        self.learner.train()
        chosen = torch.multinomial(self.weights, options.batch, replacement=True).to(self.device)
        pictures = self.images[chosen][:, None].float() / 255  # (B, 1, 224, 224)
        blood = self.blood[chosen][:, None].float() / 255  # (B, 1, 56, 56)
        pictures, blood = augment(pictures, blood)
        kept = patch_blood = None
        if self.learner.patchwise:
            grid = self.learner.grid()
            patch_blood = F.adaptive_avg_pool2d(blood, grid).flatten(1)  # (B, N)
            some = done < ALL_PATCHES_FROM and float(torch.rand(())) >= ALL_PATCHES_SHARE
            if some and 0 < options.tokens < patch_blood.shape[1]:
                content = F.adaptive_avg_pool2d(pictures, grid).flatten(1)
                kept = choose_patches(content, patch_blood, options.tokens)
                patch_blood = patch_blood.gather(1, kept)
        images = ((pictures - 0.5) / 0.5).expand(-1, 3, -1, -1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            outputs = self.learner(images, kept)
        cost = loss(outputs, self.presence[chosen], self.location[chosen], patch_blood, options.smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        cost.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), CLIP)
        self.optimiser.step()
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        for key, value in self.learner.model.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value.detach(), 1 - decay)
            else:
                self.average[key].copy_(value)
        return float(cost.detach())

    def _evaluate(self, source: Source, training_loss: float) -> None:
        model = DTViT(self.options.encoder, head=self.options.head).to(self.device)  # type: ignore[arg-type]
        model.load_state_dict(self.average)
        logits = predict(model, self.validation, self.device, self.autocast)
        calibration = calibrate(logits, self.validation)
        found = measure(logits, self.validation, calibration)
        score = _cost(logits, self.validation)
        row = {
            "step": self.step,
            "minutes": round(self.elapsed_s / 60, 2),
            "training_loss": round(training_loss, 5),
            "validation_loss": round(score, 5),
            "slice_auc": round(found["presence"]["slice"]["auc"], 5),
            "patient_auc": round(found["presence"]["patient"]["auc"], 5),
            "location_accuracy": round(found["location"]["slice"]["balanced_accuracy"], 5),
        }
        self.rows.append(row)
        self.say(", ".join(f"{key} {value}" for key, value in row.items()))
        if score < self.best:
            self.best = score
            metadata = _metadata(self.options, source, training={"step": self.step})
            save(self.options.output / "best.safetensors", self.average, metadata)


def _finish(
    options: Options, data: Pictures, source: Source, device: torch.device, say: Say, steps: int, elapsed_s: float
) -> Path:
    """Calibrate the best weights, as stored, on all validation heads; measure them on the test heads."""
    model, _ = load(options.output / "best.safetensors")
    model.to(device)
    autocast = _autocast("auto", device) and device.type == "cuda"  # as in use: bf16 on CUDA alone
    validation, test = data.of_part("validation"), data.of_part("test")
    say(f"calibrating on {len(validation)} slices, then measuring on {len(test)}")
    calibration = calibrate(predict(model, validation, device, autocast), validation)
    metrics = measure(predict(model, test, device, autocast), test, calibration)
    training = {
        **options.recorded(),
        "steps_done": steps,
        "minutes": round(elapsed_s / 60, 1),
        "device": device.type,
        "torch": torch.__version__,
        "slices": {part: len(data.of_part(part)) for part in ("train", "validation", "test")},  # type: ignore[arg-type]
        "heads_by_part": {
            part: len(np.unique(data.of_part(part).patient))  # type: ignore[arg-type]
            for part in ("train", "validation", "test")
        },
    }
    metadata = dataclasses.replace(
        _metadata(options, source, training=training),
        presence_temperature=round(calibration.presence_temperature, 4),
        location_temperature=round(calibration.location_temperature, 4),
        slice_thresholds=calibration.slice_thresholds,
        series_thresholds=calibration.series_thresholds,
        metrics=_rounded(metrics),
    )
    path = options.output / f"{options.name}.safetensors"
    save(path, model.state_dict(), metadata)
    write_whole(options.output / "metrics.json", json.dumps(_rounded(metrics), indent=1).encode())
    write_whole(options.output / "MODEL-CARD.md", model_card(describe(path)).encode())
    say(f"{path}: slice AUC {metrics['presence']['slice']['auc']:.4f} on the test heads")
    return path


@torch.inference_mode()
def predict(model: DTViT, pictures: Pictures, device: torch.device, autocast: bool) -> Logits:
    """Logits for each slice, as the node would see it: no augmentation, every patch."""
    model.eval()
    batch = SLOW_EVALUATION_BATCH if device.type == "cpu" else 512
    presence, location = np.empty((len(pictures), 2)), np.empty((len(pictures), 3))
    for start in range(0, len(pictures), batch):
        part = slice(start, start + batch)
        images = torch.from_numpy(pictures.pictures[part]).to(device)[:, None].float() / 255
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            found = model(((images - 0.5) / 0.5).expand(-1, 3, -1, -1))
        presence[part], location[part] = (x.double().cpu().numpy()[:, :3] for x in found)
    return Logits(presence, location)


def _start(options: Options) -> DTViT:
    model = DTViT(options.encoder, head=options.head, drop_path=options.drop_path)  # type: ignore[arg-type]
    if options.start_from is not None:
        model.load_state_dict(load(options.start_from)[0].state_dict())
    else:
        start_well(model.encoder)
    return model


def _autocast(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return True
    # torch runs bf16 anywhere; only with these instructions is it faster than fp32.
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def _optimiser(learner: Learner, options: Options) -> torch.optim.Optimizer:
    named = [(name, parameter) for name, parameter in learner.named_parameters() if parameter.requires_grad]
    plain = [p for name, p in named if p.ndim < 2 or name.endswith(("pos_embed", "cls_token"))]
    ids = {id(p) for p in plain}
    groups = [
        {"params": [p for _, p in named if id(p) not in ids], "weight_decay": options.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98))


def _schedule(done: float) -> float:
    """Factor of the learning rate: linear warm-up, then half a cosine."""
    if done < WARM_UP:
        return max(done / WARM_UP, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _sampling(training: Pictures) -> NDArray[np.float64]:
    """Chance of each slice: as many with blood as without, as many of each location, a few that cannot be told."""
    weights = np.zeros(len(training))
    shares: dict[tuple[int, int], float] = {(0, -1): (1 - UNCLEAR_SHARE) / 2, (-1, -1): UNCLEAR_SHARE}
    shares |= {(1, location): (1 - UNCLEAR_SHARE) / 6 for location in range(3)}
    for (presence, location), share in shares.items():
        rows = training.presence == presence
        if presence == 1:
            rows &= training.location == location
        if rows.any():
            weights[rows] = share / rows.sum()
    return weights


def _first_series(pictures: Pictures, limit: int) -> Pictures:
    """Whole heads from the beginning until there are `limit` slices."""
    if len(pictures) <= limit:
        return pictures
    return pictures.take(pictures.patient <= pictures.patient[limit])


def _cost(logits: Logits, truth: Pictures) -> float:
    """Cross entropy of both heads, without smoothing: what decides which weights are best."""
    return sum(
        float(F.cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels.astype(np.int64)), ignore_index=-1))
        for scores, labels in ((logits.presence, truth.presence), (logits.location, truth.location))
    )


def _metadata(options: Options, source: Source, *, training: Mapping[str, Any]) -> Metadata:
    return Metadata(
        name=options.name,
        encoder=options.encoder,
        head=options.head,  # type: ignore[arg-type]
        training_data=source.training_data,
        patients_seen=source.patients_seen,
        preprocessing=source.preprocessing,
        slice_thresholds=Thresholds(0.5, 0.5),
        series_thresholds=Thresholds(0.5, 0.5),
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        training=training,
    )


def _rounded(value: Any) -> Any:
    """Figures with four digits; what is not a number becomes null, as JSON has no other word for it."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    if rows:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_whole(path, buffer.getvalue().encode())
