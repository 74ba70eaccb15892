"""One audit from beginning to end: the parts in their order, then audit.json and audit.html. Nothing else is written.

For the same checkpoint, manifest, options and seed the same audit.json comes out, byte for byte, on the same machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dtvit.brace import MODES
from dtvit.checkpoint import UnusableCheckpoint
from dtvit.inference import Classifier, NotFinite, UnavailableDevice
from dtvit.preprocess import offered
from dtvit.wholefile import write_whole
from train.audit import (
    PARTS,
    WITHOUT_BLEEDING,
    counterfactuals,
    distractors,
    heads,
    implants,
    phantoms,
    pointing,
    probes,
    stability,
)
from train.audit.figures import Section, Tell, goals_of
from train.audit.heads import Pairs
from train.audit.material import gather, some
from train.audit.page import page
from train.audit.subject import Model, Subject
from train.audit.tissue import Anatomy, look
from train.audit.words import paragraph
from train.card import trained_on
from train.dataset import manifest as manifests
from train.dataset import splits
from train.dataset.manifest import Manifest
from train.dataset.pictures import Pictures
from train.dataset.splits import LEAKY, Split
from train.errors import UnusableData
from train.evaluation.output import UnusableOutput, writable

FORMAT = 1
REFUSALS = (UnusableCheckpoint, UnusableData, UnusableOutput, UnavailableDevice, NotFinite)
"""What `loaded` and `audit` raise for a person to put right; the text says how."""
TAUGHT = (
    "It was trained on this very manifest: unless the patients audited here were kept out of training, its results on "
    "them mean little."
)
FEWEST = 60  # slices to implant into, if patients are few
TOLD = 50  # slices between two reports of progress


@dataclass(frozen=True)
class Sizes:
    """How much of everything; slices, unless it says otherwise."""

    patients: int | None
    """None: all."""
    per_patient: int
    stability: int
    counterfactuals: int
    """To heal, to transplant into, and to implant."""
    heads: int
    """Phantoms with a bleed."""
    lookalikes: int
    """Phantoms that get look-alikes."""
    pointing: int


FULL = Sizes(None, 6, 300, 300, 96, 24, 120)
QUICK = Sizes(60, 4, 40, 60, 24, 6, 24)


@dataclass(frozen=True)
class Order:
    """What to audit on, and how."""

    data: Path
    output: Path
    sizes: Sizes = FULL
    seed: int = 0
    parts: tuple[str, ...] = PARTS
    split: Path | None = None
    """A file of `train.dataset.splits`; only its test part is used."""
    heads: Path | None = None
    """Folder in which synthetic heads are kept; None: OUTPUT/phantoms."""

    @property
    def without_bleeding(self) -> bool:
        """Whether nothing is asked for that needs bleeding patients."""
        return set(self.parts) <= set(WITHOUT_BLEEDING)


def loaded(checkpoint: Path, device: str, threads: int | None) -> Classifier:
    """The model to be audited, whichever way its pictures were made. Raises REFUSALS."""
    ways = [version for mode in MODES for version in offered(mode)]
    return Classifier.load(checkpoint, device, threads=threads, preprocessing=ways)


def audit(model: Model, order: Order, tell: Tell) -> Path:
    """The path of audit.html; audit.json, pictures and a cache of phantoms lie beside it.

    Raises REFUSALS, and OSError if the disk is full.
    """
    tell("reading the manifest", 0, 1)
    manifest = manifests.read(order.data, both=not order.without_bleeding)
    bench = _Bench(Subject(model), manifest, order, tell)
    writable(order.output)
    sections = [bench.run(part) for part in PARTS if part in order.parts]
    words = paragraph(sections)
    if set(order.parts) != {"phantoms"} and bench.taught:
        words.insert(1, TAUGHT)
    if set(order.parts) != {"phantoms"} and bench.split.leaky:
        words.insert(1, f"{LEAKY.capitalize()}.")
    found = json.dumps(_json(model, manifest, order, words, sections), indent=1)
    metadata = model.checkpoint.metadata
    about = [
        ("Checkpoint", f"{metadata.name}, {metadata.encoder}, SHA-256 {model.checkpoint.digest}"),
        ("Trained on", metadata.training_data),
        ("Patients seen in training", metadata.patients_seen),
        ("Manifest", f"{order.data.name}, SHA-256 {manifest.digest}"),
        ("Call", f"hemorrhage at a probability of {bench.subject.cut:.3f} or more"),
        ("Seed", str(order.seed)),
        ("Size", ", ".join(f"{name} {value}" for name, value in asdict(order.sizes).items())),
    ]
    shown = page(f"Audit of {metadata.name}", about, words, sections)
    write_whole(order.output / "audit.json", found.encode())
    path = order.output / "audit.html"
    write_whole(path, shown)
    return path


@dataclass(frozen=True)
class _Bench:
    """What the parts share, read or made when it is first needed."""

    subject: Subject
    manifest: Manifest
    order: Order
    tell: Tell

    @cached_property
    def bleeds(self) -> Pairs:
        """Of synthetic heads."""
        return self._heads("bleed", self.order.sizes.heads, heads.bleeding)

    @cached_property
    def lookalikes(self) -> Pairs:
        """Of synthetic heads that get one after another."""
        return self._heads("lookalike", self.order.sizes.lookalikes, distractors.make)

    def _heads(self, name: str, count: int, make: Callable[[int, int], Pairs]) -> Pairs:
        folder = self.order.heads or self.order.output / "phantoms"
        return heads.made(folder, name, count, self.order.seed, make, self.tell)

    @cached_property
    def split(self) -> Split:
        """The split whose test part is audited."""
        if self.order.split is not None:
            return splits.read(self.order.split, self.manifest)
        return (splits.own if "split" in self.manifest.columns else splits.whole)(self.manifest)

    @property
    def taught(self) -> bool:
        """Whether the model may have learned from those being audited, as far as its checkpoint tells."""
        metadata = self.subject.model.checkpoint.metadata
        apart = trained_on(metadata, self.split.digest) and not self.split.leaky
        return trained_on(metadata, self.manifest.digest) and not apart

    @cached_property
    def slices(self) -> Pictures:
        sizes = self.order.sizes
        each, needed = sizes.per_patient, {0, 1}
        if self.order.without_bleeding:  # probably just a few patients of one's own
            each, needed = max(each, -(-FEWEST // len({row.patient_id for row in self.manifest.rows}))), {0}
        return gather(self.manifest, self.split, sizes.patients, each, self.order.seed, needed)

    @cached_property
    def anatomies(self) -> list[Anatomy]:
        found = []
        for number, picture in enumerate(self.slices.pictures):
            if number % TOLD == 0:
                self.tell("segmenting", number, len(self.slices))
            found.append(look(picture))
        return found

    def run(self, part: str) -> Section:
        subject, sizes, seed, tell = self.subject, self.order.sizes, self.order.seed, self.tell
        folder = self.order.output / "pictures"
        if part == "probes":
            return probes.run(subject, self.slices, self.anatomies, seed, folder, tell)
        if part == "stability":
            rng = np.random.default_rng([seed, 30])
            ich = self.slices.presence == 1
            half = sizes.stability // 2
            chosen = [some(of, self.slices.patient, half, rng) for of in (ich, ~ich)]
            return stability.run(subject, self.slices.take(np.concatenate(chosen)), seed, folder, tell)
        if part == "counterfactuals":
            return counterfactuals.run(subject, self.slices, self.anatomies, sizes.counterfactuals, seed, folder, tell)
        if part == "phantoms":
            return phantoms.run(subject, self.bleeds, self.lookalikes, sizes.heads, seed, folder)
        if part == "implants":
            synthetic, most = (self.bleeds, self.lookalikes), sizes.counterfactuals
            return implants.run(subject, self.slices, self.anatomies, *synthetic, most, seed, folder, tell)
        return pointing.run(subject, self.slices, self.anatomies, self.bleeds, sizes.pointing, seed, folder, tell)


def _json(
    model: Model, manifest: Manifest, order: Order, words: Sequence[str], sections: Sequence[Section]
) -> dict[str, Any]:
    metadata = model.checkpoint.metadata
    return {
        "format": FORMAT,
        "checkpoint": {"name": metadata.name, "encoder": metadata.encoder, "sha256": model.checkpoint.digest},
        "manifest_sha256": manifest.digest,
        "seed": order.seed,
        "sizes": asdict(order.sizes),
        "verdict": words[0],
        "words": list(words[1:]),
        "goals": goals_of(sections),
        "parts": {section.name: section.to_json() for section in sections},
    }
