"""What each ingredient of the `robust` recipe is worth: the recipe without it, trained and audited, over seeds.

Every row has the same split by patient, the same time and (except two) the same encoder. What counts in it is its audit
(`train.audit`) on the patients that test, beside their AUC, which proves little. The first row is the papers' v2, with
patients kept apart. An existing row is not made again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dtvit.wholefile import write_whole
from train import recipe
from train.comparing.columns import COLUMNS
from train.comparing.trials import Maker, Trial, Work, trained
from train.completing import Made, Rows
from train.dataset import manifest
from train.document import Block, Heading, Table, markdown
from train.learning.state import claimed
from train.progress import Say
from train.recipe import Recipe, UnusableRecipe
from train.reproduce.rows import SCRATCH

FORMAT = 3  # goes up when rows made before cannot stand beside rows made now
APART = ("patient", "given")
"""Splits that an ablation may have: its table says that nobody in it was trained on."""
STEPS_OF_ALL = ("steps", "epochs", "batch", "encoder", "evaluate_every", "choose")
"""As in `robust`, so that no row sees more pictures."""


@dataclass(frozen=True)
class Without:
    """A row: `robust` with these keys changed."""

    name: str
    what: str
    changes: Mapping[str, str]
    recipe: str = "robust"


ROWS: tuple[Without, ...] = (
    Without(
        "v2", "v2's recipe, from scratch, patients apart", {**SCRATCH, "split": "patient", "phantom_heads": "0"}, "v2"
    ),
    Without("robust", "robust, whole", {}),
    Without("no-phantoms", "without phantoms", {"phantom_heads": "0"}),
    Without(
        "no-counterfactuals",
        "without healed, moved and painted slices",
        {"counterfactuals": "false", "lookalikes": "false"},
    ),
    Without("no-lookalikes", "without painted and blanked slices", {"lookalikes": "false"}),
    Without("no-blood", "without the loss of patches, and first lessons", {"blood_loss": "0", "first_lessons": "0"}),
    Without("paper-augmentation", "turned and sharpened as in the papers, else as it is", {"augmentation": "paper"}),
    Without("all-tokens", "every patch in training", {"tokens": "0"}),
    Without("vit-tiny", "ViT-Ti/16 as encoder", {"encoder": "vit_tiny_patch16_224"}),
    Without("vit-base", "ViT-B/16 as encoder", {"encoder": "vit_base_patch16_224"}),
)


def ablate(work: Work, rows: Sequence[Without], seeds: int, command: str, say: Say, make: Maker = trained) -> list[str]:
    """Make the missing rows, seed by seed, and the table now and then; returns the names of those that failed.

    Raises UnusableData, UnusableRecipe, UnavailableDevice, UnusableRun (another run has the folder).
    """
    with claimed(work.output):
        made = manifest.read(work.data).brace_removal
        every = {  # by name: a row asked for twice is one
            row.name: (row, [_trial(row, seed, work.changes, made) for seed in range(seeds)]) for row in rows
        }
        kept: Rows[Trial] = Rows(work.output, lambda _: work.key(FORMAT))
        failed = kept.complete(
            [trial for of_seed in zip(*(trials for _, trials in every.values()), strict=True) for trial in of_seed],
            partial(make, work),
            say,
            at_once=work.at_once,
            show=lambda _: write(work, kept, list(every.values()), command),
        )
        return list(failed)


def _trial(row: Without, seed: int, changes: Mapping[str, str], brace_removal: Collection[str]) -> Trial:
    return Trial(f"{row.name}-{seed}", planned(row, seed, changes, brace_removal))


def planned(row: Without, seed: int, changes: Mapping[str, str], brace_removal: Collection[str] = ()) -> Recipe:
    """The recipe of a row; `changes` common to all rows come before its own. Raises UnusableRecipe.

    `brace_removal`: what the pictures went through, if that is known; the papers' recipe is for one kind alone.
    """
    whole = recipe.read("robust").changed(changes)
    if whole.split not in APART:
        raise UnusableRecipe(
            f"split = {whole.split!r}: an ablation keeps patients apart; leave it out, or set {' or '.join(APART)}"
        )
    alike = {key: str(getattr(whole, key)) for key in STEPS_OF_ALL} if row.recipe != "robust" else {}
    fitting = recipe.fitting(brace_removal) if row.recipe != "robust" else {}
    return recipe.read(row.recipe).changed({**fitting, **changes, **row.changes, **alike, "seed": str(seed)})


def write(work: Work, kept: Rows[Trial], rows: Sequence[tuple[Without, Sequence[Trial]]], command: str) -> None:
    """Write ablation.md and ablation.csv from what is kept of each row's trials."""
    found = [(row, [made for trial in trials if (made := kept.known(trial))]) for row, trials in rows]
    table = Table(
        name="ablation",
        title="One ingredient left out at a time",
        header=("recipe", "seeds", *(each.heading for each in COLUMNS)),
        lines=tuple(_line(row, made) for row, made in found),
        note="Mean ± standard deviation over seeds, on patients and phantoms that were not trained on.",
    )
    there, wanted = (sum(len(each) for _, each in some) for some in (found, rows))
    length = "" if work.minutes is None else f", {work.minutes:g} minutes of training each"
    state = f"{there} of {wanted} rows are made{length}."
    blocks: list[Block] = [
        Heading(1, "What each ingredient is worth"),
        f"NOT FOR CLINICAL USE. `{command}`: {state}",
        table,
    ]
    write_whole(work.output / "ablation.csv", table.to_csv())
    write_whole(work.output / "ablation.md", markdown(blocks))


def _line(row: Without, found: Sequence[Made]) -> tuple[str, ...]:
    return (row.what, str(len(found)), *(column.cell(found) for column in COLUMNS))
