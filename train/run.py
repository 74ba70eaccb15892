"""One training run from the beginning: refusals, pictures, training, checkpoint.

    if __name__ == "__main__":  # the script is imported again by each process that makes phantoms or changes slices
        recipe = train.recipe.read("robust").changed({"steps": "2000"})
        path = run(recipe, Settings(output=Path("runs/robust"), data=Path("manifest.csv"), threads=1))

`python -m train fit --recipe robust --data manifest.csv --output runs/robust --threads 1 --set steps=2000` is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtvit.brace import VERSIONS
from dtvit.checkpoint import UnusableCheckpoint, describe
from dtvit.inference import UnavailableDevice, choose_device
from dtvit.model import UnknownEncoder, check_encoder
from train.card import trained_on
from train.dataset import manifest, splits
from train.dataset.manifest import Manifest
from train.dataset.pictures import PARTS, Pictures
from train.dataset.splits import Split
from train.errors import UnusableData
from train.learning import computing, state
from train.learning.computing import Built
from train.learning.gathering import gather
from train.learning.loop import fit
from train.learning.pretrained import UnavailableWeights
from train.learning.ranks import Ranks, joined
from train.learning.result import Source
from train.learning.sampling import shares_of
from train.learning.state import STATE, UnusableRun, claimed
from train.options import Settings
from train.processes import LostProcess
from train.progress import Say, say_to_stderr, silent
from train.recipe import Recipe, UnusableRecipe, defaults, fitting

SPLIT = "split.csv"
REFUSALS = (
    UnavailableDevice,
    UnavailableWeights,
    UnknownEncoder,
    UnusableCheckpoint,
    UnusableData,
    UnusableRecipe,
    UnusableRun,
)
"""What `run` raises for a person to put right; the text says how."""


def run(recipe: Recipe, settings: Settings, say: Say = say_to_stderr) -> Path:
    """The path of the checkpoint. May be stopped at any moment and run again: it continues from there.

    Raises REFUSALS (UnusableCheckpoint for `start_from`), LostRank and UnguardedScript. REFUSALS other than UnusableRun
    come before anything is trained, and those that need no pictures before the first is read.
    """
    with joined(settings.device) as ranks, _enough_memory(recipe):
        if not ranks.first:
            ranks.same(None)  # the first rank owns the folder, refuses, and makes phantoms and changed slices
            pictures, source = gather(recipe, settings, divided(recipe, settings), silent)
            return fit(recipe, settings, pictures, source, silent, ranks)
        with claimed(settings.output):
            built, pictures, source = _begun(recipe, settings, say, ranks)
            ranks.same(None)
            return fit(recipe, settings, pictures, source, say, ranks, built)


@contextlib.contextmanager
def _enough_memory(recipe: Recipe) -> Iterator[None]:
    """Raises UnusableRun if memory runs out."""
    try:
        yield
    except LostProcess as exc:
        raise UnusableRun(
            f"a process that traces and changes slices {exc}, and nothing is trained yet; run again with fewer "
            "--processes, so that each has more memory"
        ) from exc
    except RuntimeError as exc:
        if not state.lacks_memory(exc):
            raise
        raise UnusableRun(
            f"there is too little memory for {recipe.encoder} with a batch of {recipe.batch}: end what else uses "
            f"it and run again, or begin again in another folder with --set accumulation={2 * recipe.accumulation}, "
            "which computes the same gradient in smaller parts, with --set checkpointing=true, or with a smaller batch"
        ) from exc


def _begun(recipe: Recipe, settings: Settings, say: Say, ranks: Ranks) -> tuple[Built, Pictures, Source]:
    """Everything up to the first step, ordered so that what can be refused within seconds is."""
    try:
        check_names(recipe, settings, ranks)
        patients = divided(recipe, settings)
        if patients is not None:
            listed, split = patients
            check_brace_removal(recipe, listed)
            if not recipe.phantom_heads:  # these show both classes, in every part
                labels = np.array([row.presence for row in listed.rows], np.int8)
                check_classes(split.parts, labels[split.rows], f"{listed.path.name}.")
            check_start(recipe, settings, listed, split)
            if "split" in listed.columns and split.kind != "given":
                say(f"{listed.path.name} has a column split, which is not used; --split given uses it")
        built = computing.built(recipe, settings.output)  # weights take seconds, pictures minutes
        if patients is not None:
            keep_split(settings.output, *patients)
        pictures, source = gather(recipe, settings, patients, say)
    except OSError as exc:
        where = exc.filename or settings.output
        raise UnusableRun(
            f"{where} cannot be used ({exc.strerror or exc}), and nothing is trained yet; make room, or name another "
            "folder with --output, --cache or --phantoms"
        ) from exc
    check(recipe, pictures, source)
    return built, pictures, source


def check_names(recipe: Recipe, settings: Settings, ranks: Ranks) -> None:
    """What can be refused at once, without looking at the data: device, batch, whose folder it is, encoder.

    Raises UnavailableDevice, UnusableRecipe, UnusableRun, UnknownEncoder.
    """
    choose_device(ranks.device or settings.device)
    ranks.check_batch(recipe)
    begun = state.begun(settings.output / STATE)
    if begun is not None:
        mine = {**recipe.recorded(), "data": begun["run"].get("data")}
        state.same_run(settings.output, mine, {**defaults(), **begun["run"]})
    check_encoder(recipe.encoder)


def check_brace_removal(recipe: Recipe, listed: Manifest) -> None:
    """The checkpoint says what the recipe says of its pictures; a manifest may know better. Raises UnusableRecipe."""
    others = listed.brace_removal - recipe.brace_removal
    if not others:
        return
    text = (
        f"{listed.path.name} lists pictures whose head holder {', '.join(sorted(others))} removed (column "
        f"brace_removal), and recipe {recipe.name} is for {', '.join(sorted(recipe.brace_removal))} (preprocessing = "
        f"{recipe.preprocessing!r})"
    )
    ways = ["prepare them again with dicom-node prepare and the brace removal that the recipe is for"]
    if others <= set(VERSIONS.values()):
        ways.insert(0, f"train with --set preprocessing={fitting(listed.brace_removal)['preprocessing']}")
    raise UnusableRecipe(f"{text}; {', or '.join(ways)}")


def check_start(recipe: Recipe, settings: Settings, listed: Manifest, split: Split) -> None:
    """Patients who test here must not have trained the checkpoint that the run starts from. Raises as `run`."""
    if not recipe.start_from or split.leaky or split.kind == "all" or (settings.output / STATE).exists():
        return
    before = describe(Path(recipe.start_from)).metadata
    if trained_on(before, listed.digest) and not trained_on(before, split.digest):
        raise UnusableRecipe(
            f"start_from: {Path(recipe.start_from).name} was trained on {listed.path.name} under another split, so "
            "patients who test here trained it; name its own split with --split (the split.csv beside it), or all"
        )


def divided(recipe: Recipe, settings: Settings) -> tuple[Manifest, Split] | None:
    """The manifest, if there is one, and the split that the recipe names. Raises UnusableData."""
    if settings.data is None:
        return None
    listed = manifest.read(settings.data)
    if recipe.split == "patient":
        return listed, splits.by_patient(listed, recipe.seed)
    if recipe.split == "paper":
        return listed, splits.paper(listed, recipe.seed, replicate=recipe.sampling == "replicate")
    if recipe.split == "given":
        return listed, splits.given(listed)
    if recipe.split == "all":
        return listed, splits.all_train(listed)
    return listed, splits.read(Path(recipe.split), listed)


def keep_split(output: Path, listed: Manifest, split: Split) -> None:
    """Save the split beside what it trains; a run that has begun keeps its own. Raises UnusableRun, OSError."""
    path, content = output / SPLIT, splits.as_csv(split, listed)
    if not (output / STATE).exists():
        splits.write(path, split, listed)
    elif path.exists() and path.read_bytes() != content:
        raise UnusableRun(
            f"{output} holds a run on other data: its {SPLIT} differs from how {listed.path} is split now; use the "
            "same manifest and split, or choose another output folder"
        )


def check(recipe: Recipe, pictures: Pictures, source: Source) -> None:
    """Refuse what would make training pointless, before it begins. Raises UnusableData."""
    check_classes(pictures.part, pictures.presence, source.training_data)
    training = pictures.of_part("train")
    shown = shares_of(recipe, training, replicated=source.replicated) > 0
    for value, name in ((1, "bleeding"), (0, "healthy")):
        if not shown[training.presence == value].any():
            table = "shares" if recipe.sampling == "shares" else "replication"
            raise UnusableData(f"[{table}] of recipe {recipe.name} leaves out every {name} slice there is")


def check_classes(parts: NDArray[np.int8], presence: NDArray[np.int8], told: str) -> None:
    """(N,) index into PARTS and (N,) labels: training and validation both need both classes. Raises UnusableData."""
    for part in ("train", "validation"):
        labels = presence[parts == PARTS.index(part)]  # type: ignore[arg-type]
        if not len(labels):
            raise UnusableData(f"no {part} rows in {told} Name another --split, or add data")
        for value, name in ((1, "with"), (0, "without")):
            if not (labels == value).any():
                raise UnusableData(
                    f"no {part} slice {name} hemorrhage in {told} "
                    "Both classes are needed there; name another --split, or add data"
                )
