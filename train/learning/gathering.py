"""All pictures of a run in memory: the patients' of its manifest, some of them changed, and synthetic heads.

What a person may have got wrong is checked before anything that takes minutes: the patients' pictures are read before
synthetic heads are drawn, and those before slices are traced and changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train import keeping
from train.card import NO_PERSON
from train.dataset import filed
from train.dataset.manifest import Manifest
from train.dataset.pictures import APART, ORIGINS, PARTS, Pictures, frozen, join, load, part_of, stack
from train.dataset.splits import Split
from train.errors import UnusableData
from train.learning.result import Source
from train.making import bleeds, enriching, lookalikes, synthetic
from train.making.lookalikes import Lookalikes
from train.options import Settings
from train.progress import Say
from train.recipe import Recipe


@dataclass(frozen=True)
class Gathered:
    """A part of the data, and what the checkpoint will say of it."""

    pictures: Pictures
    told: str
    digest: str
    patients: str = ""
    """How many people, if there are any."""
    shown: str = ""
    """SHA-256 of the pictures of people: a picture may change while its path does not."""


def gather(
    recipe: Recipe, settings: Settings, patients: tuple[Manifest, Split] | None, say: Say
) -> tuple[Pictures, Source]:
    """All pictures of a run, and where they come from; `patients`: None if there are only phantoms.

    What is made on the way is kept, and whoever comes second only reads it. Raises UnusableData, OSError.
    """
    parts: list[Gathered] = []
    if patients is not None:
        parts.append(_patients(recipe, settings, *patients, say))
    if recipe.phantom_heads:
        parts.append(_phantoms(recipe, settings, say))
    if not parts:
        raise UnusableData(f"recipe {recipe.name} makes no phantoms, so it needs pictures: name a manifest with --data")
    if recipe.counterfactuals and patients is not None:
        parts[0] = _enriched(parts[0], recipe, settings, patients[0], say)
    split = None if patients is None else patients[1]
    source = Source(
        training_data=" ".join(part.told for part in parts),
        patients_seen=parts[0].patients or NO_PERSON,
        preprocessing=tuple(synthetic.preprocessings(recipe.preprocessing, recipe.geometry)),
        digest=hashlib.sha256(" ".join(part.digest for part in parts).encode()).hexdigest(),
        shown=parts[0].shown,
        split={} if split is None else {"kind": split.kind, "digest": split.digest},
        label=APART if split is None else split.label,
        replicated=split is not None and split.kind == "paper",
    )
    return _judged(recipe, join([part.pictures for part in parts])), source


def _patients(recipe: Recipe, settings: Settings, listed: Manifest, split: Split, say: Say) -> Gathered:
    say(f"reading {len(split.rows)} pictures of {listed.path.name}")
    pictures = filed.load(listed, split, geometry=recipe.geometry, cache=settings.cache)
    people = len(np.unique(pictures.patient))
    bleeding = len(np.unique(pictures.patient[pictures.presence == 1]))
    told = f"{len(pictures):,} slices of {people:,} patients ({listed.path.name}, SHA-256 {listed.digest[:12]})."
    twins = 0 if split.leaky else _twins(pictures)
    if twins:
        told += f" {twins:,} pictures that validate or test are also pictures of patients who train."
        say(f"{twins} pictures that validate or test are also of patients who train: one person under two ids, perhaps")
    seen = f"{people:,} patients, {bleeding:,} of them with slices labelled as bleeding"
    shown = hashlib.sha256(np.ascontiguousarray(pictures.pictures).data).hexdigest()
    return Gathered(pictures, told, f"{listed.digest} {split.digest}", seen, shown)


def _twins(pictures: Pictures) -> int:
    """How many pictures of patients who do not train are, pixel for pixel, of one who does: the split sees ids alone.

    Pictures that show nothing do not count, as they are alike in everyone.
    """
    shows = pictures.pictures.any((1, 2))
    trains = pictures.part == PARTS.index("train")
    known = {_digest(picture) for picture in pictures.pictures[shows & trains]}
    return sum(_digest(picture) in known for picture in pictures.pictures[shows & ~trains])


def _digest(picture: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(picture.tobytes(), digest_size=16).digest()


def _phantoms(recipe: Recipe, settings: Settings, say: Say) -> Gathered:
    """The synthetic heads that the recipe asks for; makes those that are missing. Raises UnusableData."""
    if not frozen(settings.phantom_folder) and {part_of(n) for n in range(recipe.phantom_heads)} < set(PARTS):
        raise UnusableData(
            f"{recipe.phantom_heads} synthetic heads are too few to validate and to test with: of every 20, one does "
            "each; set phantom_heads to 20 or more"
        )
    synthetic.make(
        settings.phantom_folder,
        recipe.phantom_heads,
        recipe.seed,
        recipe.preprocessing,
        say,
        geometry=recipe.geometry,
        processes=settings.processes,
        minutes=settings.phantom_minutes,
    )
    pictures, made = load(settings.phantom_folder)
    heads = len(np.unique(pictures.patient))
    told = (
        f"{heads:,} synthetic heads (dtvit.phantom {made['phantom']}), each with an intracerebral hemorrhage and "
        f"without it; {len(pictures):,} slices, no picture of a person."
    )
    return Gathered(pictures, told, f"{made['phantom']} {made['mode']} {made['seed']} {heads}")


def _enriched(patients: Gathered, recipe: Recipe, settings: Settings, listed: Manifest, say: Say) -> Gathered:
    """All slices, those that train and validate traced; and changed copies of those that train.

    What takes minutes to make is kept, once for all splits. From slices of bleeding patients that show no blood,
    validation would learn a threshold that calls all slices like them; those that test keep their labels.
    """
    pictures = patients.pictures
    key = f"{listed.digest} {patients.shown}"
    path, processes = _kept(settings, key, "changed"), settings.processes
    enriched = enriching.enrich_once(path, key, pictures, processes=processes, say=say)
    added = [enriched.trains()]
    told = f" {len(added[0]):,} slices of those patients that train, changed: healed, or with a bleed of another."
    if recipe.lookalikes:
        painted = keeping.once(
            _kept(settings, key, "lookalikes"),
            f"{key} {keeping.version(bleeds, lookalikes)}",
            Lookalikes,
            lambda: lookalikes.lookalikes(enriched.traced, processes=processes, say=say),
        )
        part = pictures.part[painted.heads]
        added.append(replace(painted.made, part=part).take(part == PARTS.index("train")))
        told += f" {len(added[1]):,} more with lime or a dense falx painted in, or the brain blanked."
    parts = [enriched.traced.of_part("train"), enriched.traced.of_part("validation"), pictures.of_part("test")]
    parts += _apart(added, int(pictures.series.max()) + 1)
    return replace(patients, pictures=stack(parts), told=patients.told + told)


def _kept(settings: Settings, key: str, name: str) -> Path:
    """In the run's folder; or, if there is a cache, in that, for all runs on the same patients."""
    if settings.cache is None:
        return settings.output / f"{name}.npz"
    return settings.cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"


def _apart(changed: Sequence[Pictures], first: int) -> list[Pictures]:
    """Each slice a series of its own, numbered from `first`: changed slices belong to no series that is measured."""
    starts = np.cumsum([first, *(len(each) for each in changed)])
    return [
        replace(each, series=np.arange(start, start + len(each), dtype=np.int32))
        for each, start in zip(changed, starts, strict=False)
    ]


def _judged(recipe: Recipe, pictures: Pictures) -> Pictures:
    """Only slices of the origin that the recipe names validate and test; others in those parts are left out."""
    if recipe.judged_by == "all":
        return pictures
    judges = pictures.origin == ORIGINS.index(recipe.judged_by)
    return pictures.take(judges | (pictures.part == PARTS.index("train")))
