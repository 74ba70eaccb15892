"""What a recipe is worth on every patient: folds with patients apart, each trained and audited; then one model on all.

Each patient tests one model and validates another. The last training, `final`, sees every patient, so its worth cannot
be measured on them: its figures are those of the folds, models of the same recipe, and its temperatures and thresholds
are fitted on what those said of the patients who validated them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dtvit.checkpoint import describe, load, save
from dtvit.wholefile import write_whole
from train.card import model_card
from train.comparing.columns import COLUMNS, Column
from train.comparing.trials import Maker, Trial, Work, trained
from train.completing import Made, Rows
from train.dataset import manifest, splits
from train.dataset.pictures import PARTS
from train.digits import shown
from train.document import Block, Heading, Table, markdown
from train.evaluation import heldout, rules
from train.evaluation.bootstrap import RESAMPLES
from train.evaluation.calibration import EVEN, Calibration, kept_with
from train.evaluation.heldout import HeldOut
from train.evaluation.measuring import calibrate, measure, plain
from train.evaluation.units import of_slices
from train.learning.result import HELD_OUT
from train.learning.state import UnusableRun, claimed
from train.progress import Say
from train.recipe import Recipe, UnusableRecipe

FORMAT = 2  # goes up when folds made before cannot stand beside folds made now
FINAL, FINISH = "final", "finish"
LABEL = "folds, patients apart: models of the same recipe, each on patients that it was not trained on"

ANSWERS: tuple[Column, ...] = (
    Column("bleeding slices called present", ("metrics.presence.slice.answers.hemorrhage.present",)),
    Column("bleeding slices called absent", ("metrics.presence.slice.answers.hemorrhage.absent",)),
    Column("other slices called absent", ("metrics.presence.slice.answers.none.absent",)),
    Column("other slices called present", ("metrics.presence.slice.answers.none.present",)),
    Column("patients' location, balanced", ("metrics.location.patient.balanced_accuracy",)),
)


def crossvalidate(
    work: Work,
    recipe: Recipe,
    folds: int,
    repeats: int,
    command: str,
    say: Say,
    *,
    final: bool = False,
    finish: Recipe | None = None,
    make: Maker = trained,
) -> list[str]:
    """Make the missing folds, the tables, and with `final` the model of all patients; returns names of what failed.

    `finish`: a second course for that model.

    Raises `train.run.REFUSALS`; UnusableRun if another run has the folder, or other folds are in it.
    """
    if final and not recipe.phantom_heads:
        raise UnusableRecipe(
            f"the last model of {recipe.name} trains on all patients, so only synthetic heads can validate it, and "
            "its recipe has none: set phantom_heads, or leave --final out"
        )
    with claimed(work.output):
        kept = Rows(work.output, partial(_key, work), partial(_left, work))
        complete = partial(kept.complete, make=partial(make, work), say=say, at_once=work.at_once)
        trials = planned(work, recipe, folds, repeats)
        last = Trial(FINAL, recipe.changed({"split": "all"}), audited=False)
        failed = complete([last, *trials] if final else trials)  # the longest of them first, since it sees most
        if final and finish is not None and not failed:
            start = work.folder(last) / f"{recipe.name}.safetensors"
            course = {"split": "all", "start_from": str(start), "licence": finish.licence or recipe.licence}
            last = Trial(FINISH, finish.changed(course), audited=False)
            failed = complete([last])
        if failed:
            return list(failed)
        said = [heldout.read(work.folder(trial) / HELD_OUT) for trial in trials]
        metrics = summary(said, recipe.seed)
        rows = [kept.known(trial) or {} for trial in trials]
        write_tables(work.output, rows, metrics, command)
        if final:
            finished(work.output, work.folder(last) / f"{last.recipe.name}.safetensors", said, metrics)
        return []


def planned(work: Work, recipe: Recipe, folds: int, repeats: int) -> list[Trial]:
    """A trial for each fold, its split in a file of its own.

    Raises UnusableData, and UnusableRun if the folder holds folds that were dealt differently: the two must not be
    mixed.
    """
    listed = manifest.read(work.data)
    found = []
    for number, split in enumerate(splits.repeated(listed, folds, repeats, recipe.seed)):
        name = f"fold-{number // folds + 1}-{number % folds + 1}"
        path = work.output / "splits" / f"{name}.csv"
        if path.exists() and path.read_bytes() != splits.as_csv(split, listed):
            raise UnusableRun(
                f"{work.output} holds folds of another number, seed or manifest (splits/{path.name} differs from how "
                f"{work.data.name} is dealt out now); name another folder with --output"
            )
        splits.write(path, split, listed)
        found.append(Trial(name, recipe.changed({"split": str(path)})))
    return found


def summary(folds: Sequence[HeldOut], seed: int) -> dict[str, Any]:
    """metrics.json of all folds together: each slice by its own fold's model, patients resampled for intervals.

    Logits are divided by their own model's temperatures. Answers depend on each model's own thresholds, and stand in
    the table of the folds.
    """
    tested = []
    for fold in folds:
        own = _calibration(fold)
        tested.append(fold.of_patients("test").tempered(own.presence_temperature, own.location_temperature))
    pooled = _apart(tested)
    found: dict[str, Any] = plain(measure(pooled.logits, pooled.truth, EVEN, seed))
    slices = of_slices(pooled.logits, pooled.truth, EVEN)
    found["series_rules"] = plain(rules.compared(slices, pooled.truth.series, seed, RESAMPLES))
    for level in ("slice", "patient"):
        found["presence"][level] = {
            key: value for key, value in found["presence"][level].items() if key.startswith(("auc", "pos", "neg"))
        }
    return {"split": LABEL, "folds": len(folds), **_without_answers(found)}


def _without_answers(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Without what depends on thresholds: those used here are no model's."""
    return {
        key: _without_answers(value) if isinstance(value, Mapping) else value
        for key, value in figures.items()
        if not key.startswith(("called_", "false_alarms", "found_and_right"))
    }


def _calibration(fold: HeldOut) -> Calibration:
    """That of its checkpoint: fitted on all that validated it, synthetic heads too."""
    validated = fold.take(fold.truth.part == PARTS.index("validation"))
    return calibrate(validated.logits, validated.truth)


def pooled_calibration(folds: Sequence[HeldOut]) -> Calibration:
    """Fitted on what each model said of its own validation patients."""
    pooled = _apart([fold.of_patients("validation") for fold in folds])
    return calibrate(pooled.logits, pooled.truth)


def _apart(parts: Sequence[HeldOut]) -> HeldOut:
    """Joined, each fold's series renumbered: repeated folds have every patient several times.

    Patients keep theirs, since intervals are drawn over people.
    """
    shifted, first = [], 0
    for each in parts:
        truth = dataclasses.replace(each.truth, series=each.truth.series + np.int32(first))
        shifted.append(dataclasses.replace(each, truth=truth))
        first = int(truth.series.max(initial=first)) + 1
    return heldout.join(shifted)


def finished(output: Path, final: Path, folds: Sequence[HeldOut], metrics: Mapping[str, Any]) -> Path:
    """The model of all patients with the folds' thresholds and figures, in OUTPUT; its path."""
    model, checkpoint = load(final)
    metadata = dataclasses.replace(
        kept_with(pooled_calibration(folds), checkpoint.metadata),
        metrics=dict(metrics),
        training={
            **checkpoint.metadata.training,
            "calibrated_by": f"what the models of {len(folds)} folds said of their validation patients",
        },
    )
    path = output / final.name
    save(path, model.state_dict(), metadata)
    write_whole(output / "MODEL-CARD.md", model_card(describe(path)).encode())
    return path


def write_tables(output: Path, folds: Sequence[Made], metrics: Mapping[str, Any], command: str) -> None:
    """crossvalidation.md, .csv and .json."""
    columns = (*COLUMNS, *ANSWERS)
    lines = [(f"fold {number}", *(c.cell([fold]) for c in columns)) for number, fold in enumerate(folds, 1)]
    lines.append(("mean", *(c.cell(folds) for c in columns)))
    table = Table(
        name="crossvalidation",
        title="Each fold's model on the patients that test it",
        header=("", *(c.heading for c in columns)),
        lines=tuple(lines),
        note="Thresholds are each model's own, fitted on its validation patients. ± is the standard deviation.",
    )
    blocks: list[Block] = [
        Heading(1, "A recipe on every patient"),
        f"NOT FOR CLINICAL USE. `{command}`",
        "All folds together, with 95 % intervals over patients: " + "; ".join(_words(metrics)) + ".",
        table,
    ]
    write_whole(output / "crossvalidation.csv", table.to_csv())
    write_whole(output / "crossvalidation.json", json.dumps(metrics, indent=1).encode())
    write_whole(output / "crossvalidation.md", markdown(blocks))


def _words(metrics: Mapping[str, Any]) -> list[str]:
    places = (
        ("AUC of slices", ("presence", "slice"), "auc"),
        ("of patients", ("presence", "patient"), "auc"),
        ("location of slices, balanced", ("location", "slice"), "balanced_accuracy"),
        ("of patients", ("location", "patient"), "balanced_accuracy"),
    )
    return [_with_interval(name, metrics[head][level], key) for name, (head, level), key in places]


def _with_interval(name: str, found: Mapping[str, Any], key: str) -> str:
    value, (low, high) = found.get(key), found.get(f"{key}_ci", (None, None))
    if value is None:
        return f"{name} not known"
    if low is None:
        return f"{name} {shown(value)} (no interval: {found.get(f'{key}_ci_why', 'not measured')})"
    return f"{name} {shown(value)} ({shown(low)} to {shown(high)})"


def _left(work: Work, trial: Trial) -> Path:
    """What its run leaves, that the others or the last page are made from."""
    return work.folder(trial) / (HELD_OUT if trial.audited else f"{trial.recipe.name}.safetensors")


def _key(work: Work, trial: Trial) -> str:
    return f"{work.key(FORMAT)} {json.dumps(trial.recipe.recorded(), sort_keys=True)}"
