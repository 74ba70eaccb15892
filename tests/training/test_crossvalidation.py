"""`train crossvalidate`: every patient tests once; the last model's thresholds and figures are those of the folds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from listed import entries, many, table
from untrained import untrained_checkpoint

from dtvit.checkpoint import describe
from dtvit.findings import Thresholds
from train import recipe
from train.commands.crossvalidate import main
from train.comparing.crossvalidation import LABEL, crossvalidate, planned, pooled_calibration, summary, write_tables
from train.comparing.trials import Trial, Work
from train.dataset.filed import load
from train.dataset.manifest import Manifest
from train.dataset.manifest import read as read_manifest
from train.dataset.pictures import PARTS
from train.dataset.splits import Split, folds
from train.errors import UnusableData
from train.evaluation import Logits, heldout
from train.evaluation.heldout import HeldOut
from train.learning.result import HELD_OUT
from train.learning.state import UnusableRun
from train.progress import silent

ROBUST = recipe.read("robust")
SCRATCH = ["--recipe", "v2", "--set", "encoder=test_vit", "--set", "pretrained=none"]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(data=table(tmp_path / "data", entries(many(6, 3, 3, 3), slices=2)), output=tmp_path / "out")


def said(listed: Manifest, split: Split, sureness: float = 2.0) -> HeldOut:
    """What a model says that is right about every slice that it was not trained on."""
    truth = load(listed, split)
    truth = truth.take(truth.part != PARTS.index("train"))
    sign = np.where(truth.presence == 1, sureness, -sureness)
    presence = np.stack([-sign, sign], 1) + np.linspace(-0.5, 0.5, len(truth))[:, None] * [0, 1]
    location = np.where(np.arange(3) == truth.location[:, None], 2.0, 0.0)
    return heldout.of(Logits(presence, location), truth)


def test_every_patient_tests_once_and_validates_once(work: Work) -> None:
    listed = read_manifest(work.data)
    parts = [said(listed, split) for split in folds(listed, 3, 0)]
    for part in ("test", "validation"):
        patients = [set(fold.of_patients(part).truth.patient.tolist()) for fold in parts]  # type: ignore[arg-type]
        assert set.union(*patients) == set(range(15))
        assert sum(map(len, patients)) == 15


def test_folds_that_are_sure_in_different_ways_are_made_comparable(work: Work) -> None:
    listed = read_manifest(work.data)
    parts = [said(listed, split, sureness) for split, sureness in zip(folds(listed, 3, 0), (1, 4, 40), strict=True)]
    found = summary(parts, 0)
    assert found["presence"]["slice"]["auc"] == 1.0
    assert found["presence"]["slice"]["positives"] == 18
    assert found["location"]["patient"]["balanced_accuracy"] == 1.0
    assert found["series_rules"]["two_neighbours"]["auc"] == 1.0
    assert found["split"] == LABEL
    assert "answers" not in found["presence"]["slice"]  # each model's own thresholds gave those
    assert found["strata"]["patient"]["location"]["deep"].keys() >= {"auc", "positives"}
    for named in ("called_present", "false_alarms", "found_and_right"):
        assert named not in json.dumps(found)


def test_how_sure_each_fold_is_of_itself_changes_no_figure(work: Work) -> None:
    listed = read_manifest(work.data)
    random = np.random.default_rng(2)
    honest, loud = [], []
    for split, times in zip(folds(listed, 3, 0), (0.5, 1.0, 2.5), strict=True):
        one = said(listed, split, 1.0)
        presence, location = (
            each + random.normal(0, 2.0, each.shape) for each in (one.logits.presence, one.logits.location)
        )
        honest.append(replace(one, logits=Logits(presence, location)))
        loud.append(replace(one, logits=Logits(presence * times, location / times)))
    expected, found = summary(honest, 0), summary(loud, 0)
    assert 0.7 < expected["presence"]["slice"]["auc"] < 0.99
    for head, name in (("presence", "auc"), ("location", "auc"), ("location", "ece"), ("location", "brier")):
        for level in ("slice", "patient"):
            assert found[head][level][name] == pytest.approx(expected[head][level][name], abs=2e-3)


def test_how_sure_a_fold_is_to_be_is_learnt_from_its_validation_patients_alone(work: Work) -> None:
    """From those who test it, a model too sure of itself on them would be told to be as good as the others."""
    listed, random = read_manifest(work.data), np.random.default_rng(2)
    honest, surer = [], []
    for split in folds(listed, 3, 0):
        one = said(listed, split)
        location = one.logits.location + random.normal(0, 2.0, one.logits.location.shape)
        honest.append(replace(one, logits=Logits(one.logits.presence, location)))
        times = np.where(one.truth.part == PARTS.index("test"), 8.0, 1.0)[:, None]
        surer.append(replace(one, logits=Logits(one.logits.presence, location * times)))
    for name in ("ece", "brier"):
        calibrated, found = (summary(each, 0)["location"]["slice"][name] for each in (honest, surer))
        assert found > calibrated + 0.1


def test_what_repeated_folds_say_of_a_series_is_not_put_together(work: Work) -> None:
    """One that finds all hemorrhages beside one that finds none misses half."""
    listed = read_manifest(work.data)
    right = [said(listed, split) for split in folds(listed, 3, 0)]
    missed = []
    for split in folds(listed, 3, 1):
        one = said(listed, split)
        presence = one.logits.presence - np.where(one.truth.presence == 1, 12.0, 0.0)[:, None] * [0, 1]
        missed.append(replace(one, logits=Logits(presence, one.logits.location)))
    found = summary([*right, *missed], 0)["series_rules"]["two_neighbours"]
    assert found["auc"] < 0.9
    assert found["sensitivity"] < 0.9


def test_a_place_that_one_patient_bleeds_in_ends_in_a_table(tmp_path: Path) -> None:
    listed = read_manifest(table(tmp_path, entries(many(6, 3, 3, 1), slices=2)))
    found = summary([said(listed, split) for split in folds(listed, 3, 0)], 0)
    write_tables(tmp_path, [], found, "command")
    text = (tmp_path / "crossvalidation.md").read_text()
    assert "location of slices, balanced 1.000 (no interval: it rests on one patient)" in text


def test_folds_of_another_number_are_another_folders(work: Work) -> None:
    four = planned(work, ROBUST, 4, 1)
    before = Path(four[0].recipe.split).read_bytes()
    assert [trial.name for trial in planned(work, ROBUST, 4, 2)][:4] == [trial.name for trial in four]
    with pytest.raises(UnusableRun, match=r"holds folds of another number, seed or manifest .*another folder"):
        planned(work, ROBUST, 3, 1)
    assert Path(four[0].recipe.split).read_bytes() == before


def test_held_out_predictions_come_back_as_they_were(work: Work, tmp_path: Path) -> None:
    listed = read_manifest(work.data)
    before = said(listed, folds(listed, 3, 0)[0])
    heldout.write(tmp_path / HELD_OUT, [before], "patients apart")
    after = heldout.read(tmp_path / HELD_OUT)
    assert np.allclose(after.logits.presence, before.logits.presence, atol=1e-6)
    for name in heldout.TRUTH:
        assert np.array_equal(
            getattr(after.truth, name), getattr(before.truth, name), equal_nan=name.endswith(("ml", "2"))
        )
    (tmp_path / HELD_OUT).write_bytes(b"no zip")
    with pytest.raises(UnusableData, match="remove its run"):
        heldout.read(tmp_path / HELD_OUT)


def test_the_last_model_has_all_patients_and_the_folds_thresholds(work: Work) -> None:
    listed = read_manifest(work.data)
    splits = {f"fold-1-{number}": split for number, split in enumerate(folds(listed, 3, 0), 1)}
    made: list[tuple[str, str]] = []
    licences: list[str] = []
    licensed = replace(ROBUST, licence="CC-BY-4.0")

    def make(_work: Work, trial: Trial, _say: object) -> dict[str, object]:
        licences.append(trial.recipe.licence)
        made.append((trial.name, Path(trial.recipe.start_from or trial.recipe.split).name))
        folder = work.folder(trial)
        folder.mkdir(parents=True)
        if trial.name in ("final", "finish"):
            untrained_checkpoint(
                folder / f"{ROBUST.name}.safetensors", seed=len(made), series_thresholds=Thresholds(0.1, 0.9)
            )
        else:
            heldout.write(folder / HELD_OUT, [said(listed, splits[trial.name])], "patients apart")
        return {"metrics": {}, "audit": {}, "steps": 1}

    assert crossvalidate(work, licensed, 3, 1, "the command", silent, final=True, make=make) == []
    assert made[0] == ("final", "all")
    assert [name for name, _ in made[1:]] == list(splits)
    first = (work.output / f"{ROBUST.name}.safetensors").read_bytes()
    shipped = describe(work.output / f"{ROBUST.name}.safetensors").metadata
    fitted = pooled_calibration([said(listed, split) for split in splits.values()])
    assert shipped.series_thresholds == fitted.series_thresholds
    assert shipped.slice_thresholds == fitted.slice_thresholds
    assert shipped.presence_temperature == pytest.approx(fitted.presence_temperature, abs=1e-4)
    assert shipped.location_temperature == pytest.approx(fitted.location_temperature, abs=1e-4)
    assert shipped.metrics["presence"]["slice"]["auc"] == 1.0
    card = (work.output / "MODEL-CARD.md").read_text()
    assert "By 3 folds, patients apart" in card
    assert "what the models of 3 folds said of their validation patients" in card
    assert json.loads((work.output / "crossvalidation.json").read_text())["folds"] == 3
    assert "| fold 3 |" in (work.output / "crossvalidation.md").read_text()
    assert crossvalidate(replace(work), licensed, 3, 1, "the command", silent, final=True, make=make) == []
    assert len(made) == 4
    second = recipe.read("robust-finish")
    assert crossvalidate(work, licensed, 3, 1, "the command", silent, final=True, finish=second, make=make) == []
    assert made[4:] == [("finish", f"{ROBUST.name}.safetensors")]
    assert licences[4:] == ["CC-BY-4.0"]
    assert (work.output / f"{second.name}.safetensors").read_bytes() != first


def test_a_fold_whose_run_was_removed_is_made_again(work: Work) -> None:
    """As the error about predictions that cannot be read says one should; its figures are kept elsewhere."""
    listed, made = read_manifest(work.data), []
    splits = {f"fold-1-{number}": split for number, split in enumerate(folds(listed, 3, 0), 1)}

    def make(_work: Work, trial: Trial, _say: object) -> dict[str, object]:
        made.append(trial.name)
        work.folder(trial).mkdir(parents=True)
        heldout.write(work.folder(trial) / HELD_OUT, [said(listed, splits[trial.name])], "patients apart")
        return {"metrics": {}, "audit": {}, "steps": 1}

    assert crossvalidate(work, ROBUST, 3, 1, "the command", silent, make=make) == []
    shutil.rmtree(work.output / "runs" / "fold-1-2")
    assert crossvalidate(work, ROBUST, 3, 1, "the command", silent, make=make) == []
    assert made[3:] == ["fold-1-2"]


def test_the_command_says_what_is_wrong_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(tmp_path / "x.csv"), "--output", str(tmp_path / "out")]
    assert main(options, "crossvalidate") == 1
    assert "x.csv" in capsys.readouterr().err
    assert main([*options, "--recipe", "robustt"], "crossvalidate") == 1
    assert "no recipe 'robustt'" in capsys.readouterr().err
    data = ["--data", str(table(tmp_path / "data", entries(many(6, 3, 3, 3), slices=1))), "--output", str(tmp_path)]
    for change, said in (
        ("encoder=resnet19", "no encoder 'resnet19'"),
        ("start_from=gone.safetensors", "gone.safetensors: cannot be read"),
        ("pretrained=gone.pth", "gone.pth gives no weights"),
    ):
        assert main([*data, *SCRATCH, "--set", change], "crossvalidate") == 1
        assert said in capsys.readouterr().err
    assert main([*data, *SCRATCH, "--final"], "crossvalidate") == 1
    assert "only synthetic heads can validate it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*options, "--at-once", "0"], "crossvalidate")
    assert "--at-once: must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*options, "--folds", "2"], "crossvalidate")
    assert capsys.readouterr().err.endswith("--folds: must be a whole number from 3 to 99, got 2\n")
