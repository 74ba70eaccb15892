"""What each ingredient of the `robust` recipe is worth: the recipe without it, trained and audited, over seeds.

Every row has the same patients apart, time and encoder; what it says is its audit (`train.audit`) on the patients that
test, beside their AUC, which proves little. The first row is the papers' v2, with its patients kept apart. A row that
is there is not made again.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtvit.checkpoint import write_whole
from train import manifest, recipe
from train.options import Settings
from train.progress import Say
from train.recipe import Recipe
from train.reproduce.page import Block, Heading, markdown
from train.reproduce.rows import SCRATCH
from train.reproduce.tables import Table
from train.state import UnusableRun, claimed

FORMAT = 1  # goes up when rows made before cannot stand beside rows made now
STEPS_OF_ALL = (
    "steps",
    "epochs",
    "encoder",
    "evaluate_every",
    "choose",
)  # as in `robust`, so that no row trains longer


@dataclass(frozen=True)
class Without:
    """A row: `robust` with these keys changed."""

    name: str
    what: str
    changes: Mapping[str, str]
    recipe: str = "robust"


ROWS: tuple[Without, ...] = (
    Without("v2", "v2's recipe, from scratch, patients apart", {**SCRATCH, "split": "patient"}, "v2"),
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
)


@dataclass(frozen=True)
class Work:
    """What all rows have in common."""

    data: Path
    output: Path
    minutes: float
    """Of training, each row."""
    phantoms: Path | None = None
    """Folder of synthetic heads that are made already."""
    phantom_minutes: float | None = None
    quick: bool = False
    """The audit's quick sizes."""
    device: str = "auto"
    threads: int | None = None

    def file(self, row: Without, seed: int) -> Path:
        return self.output / "rows" / f"{row.name}-{seed}.json"


@dataclass(frozen=True)
class Column:
    """A figure of a row."""

    title: str
    places: tuple[str, ...]
    """Where it stands in what was measured, `*` for any name; several make a mean."""
    goal: str = ""


COLUMNS: tuple[Column, ...] = (
    Column("slice AUC", ("metrics.presence.slice.auc",)),
    Column("patient AUC", ("metrics.presence.patient.auc",)),
    Column("location, balanced", ("metrics.location.slice.balanced_accuracy",)),
    Column("blanked AUC", ("audit.probes.blanked.slice_auc", "audit.probes.blanked_noise.slice_auc"), "<= 0.6"),
    Column("healed flips", ("audit.counterfactuals.healed.*.flipped",), ">= 0.8"),
    Column("healed against normal AUC", ("audit.counterfactuals.healed.*.vs_normal_auc",), "<= 0.6"),
    Column("transplanted flips", ("audit.counterfactuals.transplanted.*.flipped",), ">= 0.8"),
    Column("sham flips", ("audit.counterfactuals.*.*.sham_flipped",), "<= 0.05"),
    Column("phantoms over 5 ml AUC", ("audit.phantoms.auc_over_5_ml",), ">= 0.98"),
    Column("look-alikes called", ("audit.phantoms.lookalikes.*.false_alarms",)),
)

Made = dict[str, Any]
"""`key`, `metrics` of the test part, `audit` (its parts), `steps`."""
Maker = Callable[[Work, Without, int, Say], Made]


def ablate(
    work: Work, rows: Sequence[Without], seeds: int, command: str, say: Say, make: Maker | None = None
) -> list[str]:
    """Make the rows that are not there, seed by seed, and the table after each; names of those that failed.

    Raises UnusableData, UnusableRecipe, UnavailableDevice, UnusableRun (another run has the folder).
    """
    failed = []
    plan = [(row, seed) for seed in range(seeds) for row in rows]
    with claimed(work.output):
        for number, (row, seed) in enumerate(plan, start=1):
            if known(work, row, seed) is None:
                say(f"row {number} of {len(plan)}: {row.name}, seed {seed}")
                try:
                    made = (make or trained)(work, row, seed, say)
                except UnusableRun as exc:  # a training that diverged: the others may go on
                    failed.append(f"{row.name}-{seed}")
                    say(f"{row.name} could not be made: {exc}")
                else:
                    write_whole(work.file(row, seed), json.dumps({"key": _key(work), **made}, indent=1).encode())
            write(work, rows, seeds, command)
    return failed


def planned(row: Without, seed: int) -> Recipe:
    """The recipe of a row. Raises UnusableRecipe."""
    whole = recipe.read("robust")
    alike = {key: str(getattr(whole, key)) for key in STEPS_OF_ALL} if row.recipe != "robust" else {}
    return recipe.read(row.recipe).changed({**row.changes, **alike, "seed": str(seed)})


def trained(work: Work, row: Without, seed: int, say: Say) -> Made:
    """Train a row in a folder of its own, and audit it on the patients that tested nothing else."""
    from dtvit.checkpoint import describe
    from train.commands import audit
    from train.run import SPLIT, run

    folder = work.output / "runs" / f"{row.name}-{seed}"
    settings = Settings(
        output=folder,
        data=work.data,
        cache=work.output / "cache",
        phantoms=work.phantoms or work.output / f"phantoms-{seed}",
        phantom_minutes=work.phantom_minutes,
        max_time=work.minutes,
        device=work.device,
        threads=work.threads,
    )
    path = run(planned(row, seed), settings, say)
    options = [str(path), "--data", str(work.data), "--output", str(folder / "audit"), "--seed", str(seed)]
    options += ["--split", str(folder / SPLIT), "--device", work.device, *(["--quick"] if work.quick else [])]
    options += [] if work.threads is None else ["--threads", str(work.threads)]
    if audit.main(options, "audit"):
        raise UnusableRun(f"{path} could not be audited; the reason stands above")
    return {
        "metrics": json.loads((folder / "metrics.json").read_bytes()),
        "audit": json.loads((folder / "audit" / "audit.json").read_bytes())["parts"],
        "steps": (describe(path).metadata.training or {}).get("steps_done"),
    }


def known(work: Work, row: Without, seed: int) -> Made | None:
    """A row that was made before, of this data and in this way."""
    try:
        made: Made = json.loads(work.file(row, seed).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return made if made.get("key") == _key(work) else None


def _key(work: Work) -> str:
    return f"{FORMAT} {manifest.read(work.data).digest} {work.minutes:g} min {'quick' if work.quick else 'full'}"


def write(work: Work, rows: Sequence[Without], seeds: int, command: str) -> None:
    """ablation.md and ablation.csv of what is there."""
    found = {row.name: [made for seed in range(seeds) if (made := known(work, row, seed))] for row in rows}
    table = Table(
        name="ablation",
        title="Without one ingredient at a time",
        header=("recipe", "seeds", *(f"{each.title} ({each.goal})" if each.goal else each.title for each in COLUMNS)),
        lines=tuple(_line(row, found[row.name]) for row in rows),
        note="Mean, ± the standard deviation over seeds. Figures of patients, and phantoms, that trained nothing.",
    )
    there = sum(map(len, found.values()))
    state = f"{there} of {len(rows) * seeds} rows are made, {work.minutes:g} minutes of training each."
    blocks: list[Block] = [
        Heading(1, "What each ingredient is worth"),
        f"NOT FOR CLINICAL USE. `{command}`: {state}",
        table,
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.header, *table.lines])
    write_whole(work.output / "ablation.csv", text.getvalue().encode())
    write_whole(work.output / "ablation.md", markdown(blocks))


def _line(row: Without, made: Sequence[Made]) -> tuple[str, ...]:
    return (row.what, str(len(made)), *(_told([_value(each, column) for each in made]) for column in COLUMNS))


def _value(made: Made, column: Column) -> float:
    """The mean over the places of a column; not a number where none was measured."""
    values = [value for place in column.places for value in _at(made, place.split("."))]
    numbers = [float(each) for each in values if isinstance(each, int | float) and math.isfinite(each)]
    return statistics.fmean(numbers) if numbers else math.nan


def _at(tree: object, path: Sequence[str]) -> list[object]:
    if not path:
        return [tree]
    if not isinstance(tree, dict):
        return []
    inner = tree.values() if path[0] == "*" else [tree[path[0]]] if path[0] in tree else []
    return [each for one in inner for each in _at(one, path[1:])]


def _told(values: Sequence[float]) -> str:
    measured = [each for each in values if math.isfinite(each)]
    if not measured:
        return "-"
    spread = f" ± {statistics.stdev(measured):.3f}" if len(measured) > 1 else ""
    return f"{statistics.fmean(measured):.3f}{spread}"
