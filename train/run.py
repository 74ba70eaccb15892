"""One training run from the beginning: pictures, training, checkpoint. What both command lines call.

    recipe = train.recipe.read("robust").changed({"steps": "2000"})
    path = run(recipe, Settings(output=Path("runs/robust"), data=Path("manifest.csv"), threads=1))

`python -m train fit --recipe robust --data manifest.csv --output runs/robust --threads 1 --set steps=2000` is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dtvit import brace, preprocess
from train import bleeds, data, enriching, filed, keeping, lookalikes, manifest, splits, synthetic
from train.data import APART, ORIGINS, PARTS, Pictures, UnusableData, join, stack
from train.loop import fit
from train.manifest import Manifest
from train.options import Settings
from train.progress import Say, say_to_stderr, silent
from train.ranks import Ranks, joined
from train.recipe import Recipe, UnusableRecipe
from train.result import Source
from train.sampling import chances
from train.splits import Split
from train.state import claimed

SPLIT = "split.csv"
NO_PERSON = "none"


@dataclass(frozen=True)
class Gathered:
    """A part of the data, and what the checkpoint will say of it."""

    pictures: Pictures
    told: str
    digest: str
    patients: str = ""
    """How many people, where there are any."""


def run(recipe: Recipe, settings: Settings, say: Say = say_to_stderr) -> Path:
    """The path of the checkpoint. May be stopped at any moment and run again: it goes on from there.

    Raises UnusableData, UnusableRun, UnusableRecipe, UnusableCheckpoint (`start_from`), UnavailableWeights,
    UnavailableDevice, UnknownEncoder; all but UnusableRun before anything is trained.
    """
    with joined(settings.device) as ranks:
        if not ranks.first:
            ranks.same(None)  # the first rank has the folder; phantoms and changed slices are made
            pictures, source = gather(recipe, settings, silent, ranks)
            return fit(recipe, settings, pictures, source, silent, ranks)
        with claimed(settings.output):
            phantoms_of(recipe, settings, say)
            pictures, source = gather(recipe, settings, say, ranks)
            check(recipe, pictures, source)
            ranks.same(None)
            return fit(recipe, settings, pictures, source, say, ranks)


def phantoms_of(recipe: Recipe, settings: Settings, say: Say) -> None:
    """Make the synthetic heads that the recipe asks for and that are not there yet. Raises UnusableData."""
    if recipe.phantom_heads:
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


def gather(recipe: Recipe, settings: Settings, say: Say, ranks: Ranks) -> tuple[Pictures, Source]:
    """All pictures of a run, and where they come from. Raises UnusableData."""
    parts: list[Gathered] = []
    split = None
    if settings.data is not None:
        listed = manifest.read(settings.data)
        split = divided(recipe, listed)
        if ranks.first:
            splits.write(settings.output / SPLIT, split, listed)
        parts.append(_patients(recipe, settings, listed, split, say))
    if recipe.phantom_heads:
        parts.append(_phantoms(settings))
    if not parts:
        raise UnusableData(f"recipe {recipe.name} makes no phantoms, so it needs pictures: name a manifest with --data")
    modes = brace.MODES if recipe.preprocessing == "mixed" else (recipe.preprocessing,)
    source = Source(
        training_data=" ".join(part.told for part in parts),
        patients_seen=parts[0].patients or NO_PERSON,
        preprocessing=tuple(preprocess.preprocessing(mode, recipe.geometry) for mode in modes),
        digest=hashlib.sha256(" ".join(part.digest for part in parts).encode()).hexdigest(),
        split={} if split is None else {"kind": split.kind, "digest": split.digest},
        label=APART if split is None else split.label,
        replicated=split is not None and split.kind == "paper",
    )
    return judged(recipe, join([part.pictures for part in parts])), source


def divided(recipe: Recipe, listed: Manifest) -> Split:
    """The split that a recipe names. Raises UnusableData."""
    if recipe.split == "patient":
        return splits.by_patient(listed, recipe.seed)
    if recipe.split == "paper":
        return splits.paper(listed, recipe.seed, replicate=recipe.sampling == "replicate")
    if recipe.split == "given":
        return splits.given(listed)
    if recipe.split == "all":
        return splits.all_train(listed)
    return splits.read(Path(recipe.split), listed)


def _patients(recipe: Recipe, settings: Settings, listed: Manifest, split: Split, say: Say) -> Gathered:
    say(f"reading {len(split.rows)} pictures of {listed.path.name}")
    pictures = filed.load(listed, split, geometry=recipe.geometry, cache=settings.cache)
    people = len(np.unique(pictures.patient))
    bleeding = len(np.unique(pictures.patient[pictures.presence == 1]))
    told = f"{len(pictures):,} slices of {people:,} patients ({listed.path.name}, SHA-256 {listed.digest[:12]})."
    if recipe.counterfactuals:
        # a picture may change while its path does not
        shown = hashlib.sha256(np.ascontiguousarray(pictures.pictures).data).hexdigest()
        key = f"{listed.digest} {split.digest} {recipe.seed} {shown}"
        pictures, told_of = enriched(pictures, recipe, settings, key, say)
        told += told_of
    seen = f"{people:,} patients, {bleeding:,} of them with slices labelled as bleeding"
    return Gathered(pictures, told, f"{listed.digest} {split.digest}", seen)


def enriched(pictures: Pictures, recipe: Recipe, settings: Settings, key: str, say: Say) -> tuple[Pictures, str]:
    """All slices, those that train and validate traced, and those that train once more, changed; told in a sentence.

    What takes minutes to make is kept. Of slices of bleeding patients that show no blood,
    validation would learn a threshold that calls all slices like them; those that test stay as they are labelled.
    Raises UnusableRecipe.
    """
    if recipe.geometry != preprocess.HEAD_BOX:
        raise UnusableRecipe(f"counterfactuals need geometry = {preprocess.HEAD_BOX!r}, recipe has {recipe.geometry!r}")
    processes = settings.processes
    traced, made = enriching.enrich_once(
        changed_file(settings, key, "changed"),
        key,
        pictures.of_part("train"),
        recipe.seed,
        processes=processes,
        say=say,
    )
    told = f" {len(made):,} slices of those patients that train, changed: healed, or with a bleed of another."
    added = [made]
    if recipe.lookalikes:
        path = changed_file(settings, key, "lookalikes")
        stamp = f"{key} {keeping.version(bleeds, lookalikes)}"
        added += keeping.once(path, stamp, lambda: (lookalikes.lookalikes(traced, recipe.seed),))
        told += f" {len(added[-1]):,} more with lime or a dense falx painted in, or the brain blanked."
    validation = pictures.of_part("validation")
    if len(validation):
        validation = enriching.trace(validation, processes=processes, say=say)
    judging = [validation, pictures.of_part("test")]
    return stack([traced, *judging, *_apart(added, int(pictures.series.max()) + 1)]), told


def changed_file(settings: Settings, key: str, name: str) -> Path:
    """In the run's folder; where there is a cache, in that, for all runs on the same patients."""
    if settings.cache is None:
        return settings.output / f"{name}.npz"
    return settings.cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"


def _apart(changed: Sequence[Pictures], first: int) -> list[Pictures]:
    """Each slice a series of its own, numbered from `first`: what was changed belongs to none that is measured."""
    starts = np.cumsum([first, *(len(each) for each in changed)])
    return [
        replace(each, series=np.arange(start, start + len(each), dtype=np.int32))
        for each, start in zip(changed, starts, strict=False)
    ]


def _phantoms(settings: Settings) -> Gathered:
    pictures, made = data.load(settings.phantom_folder)
    heads = len(np.unique(pictures.patient))
    told = (
        f"{heads:,} synthetic heads (dtvit.phantom {made['phantom']}), each with an intracerebral hemorrhage and "
        f"without it; {len(pictures):,} slices, no picture of a person."
    )
    return Gathered(pictures, told, f"{made['phantom']} {made['mode']} {made['seed']} {heads}")


def judged(recipe: Recipe, pictures: Pictures) -> Pictures:
    """Only slices of whom the recipe names validate and test; the others of those parts are left out."""
    if recipe.judged_by == "all":
        return pictures
    judges = pictures.origin == ORIGINS.index(recipe.judged_by)
    return pictures.take(judges | (pictures.part == PARTS.index("train")))


def check(recipe: Recipe, pictures: Pictures, source: Source) -> None:
    """What would make a training senseless is said before it begins. Raises UnusableData."""
    for part in ("train", "validation"):
        labels = pictures.presence[pictures.part == PARTS.index(part)]  # type: ignore[arg-type]
        if not len(labels):
            raise UnusableData(f"no {part} rows in {source.training_data} Name another --split, or more data")
        for value, name in ((1, "with"), (0, "without")):
            if not (labels == value).any():
                raise UnusableData(
                    f"no {part} slice {name} hemorrhage in {source.training_data} "
                    "Both classes are needed there; name another --split, or more data"
                )
    training = pictures.of_part("train")
    if recipe.sampling == "shares":
        chance = chances(recipe, training)
        for value, name in ((1, "bleeding"), (0, "healthy")):
            if not chance[training.presence == value].sum():
                raise UnusableData(f"[shares] of recipe {recipe.name} gives nothing to any {name} slice there is")
