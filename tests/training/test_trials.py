"""Trials side by side: each in a process of its own, a failure costs one, and what all want is made by the first."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from audited import write_manifest
from drawn import labelled
from listed import entries, grey, many, table
from untrained import untrained_checkpoint

from dtvit.preprocess import preprocessing
from train import completing, recipe
from train.audit import PARTS, run
from train.audit.run import Sizes
from train.comparing import trials
from train.comparing.trials import Trial, Work
from train.completing import Made
from train.csvfile import Problem, UnusableTable
from train.dataset import manifest, splits
from train.dataset.pictures import Pictures
from train.keeping import once
from train.learning.state import UnusableRun
from train.options import Settings
from train.progress import Say, silent
from train.turns import in_turn

ROBUST = recipe.read("robust")


def pid_of(trial: Trial, _say: Say) -> Made:
    if trial.name == "diverging":
        raise UnusableRun("the loss is no number")
    return {"steps": os.getpid()}


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_training_that_fails_does_not_stop_the_others(at_once: int) -> None:
    wanted = [Trial(name, ROBUST) for name in ("first", "diverging", "last")]
    found = {trial.name: made for trial, made in completing.made(wanted, pid_of, silent, at_once)}
    assert str(found["diverging"]) == "the loss is no number"
    pids = {found[name]["steps"] for name in ("first", "last")}  # type: ignore[index]
    assert pids == {os.getpid()} if at_once == 1 else os.getpid() not in pids and len(pids) == 2


def test_what_was_trained_is_audited_on_the_patients_that_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "QUICK", Sizes(6, 2, 4, 4, 1, 1, 4))
    data = write_manifest(tmp_path, patients=20, slices=2)
    work = Work(data=data, output=tmp_path / "out", audit="quick", threads=1)
    path = work.output / "runs" / "one" / "model.safetensors"
    path.parent.mkdir(parents=True)
    untrained_checkpoint(path, preprocessing=(preprocessing("robust"),))
    with pytest.raises(UnusableRun, match=r"could not be audited: .*split.csv"):
        trials.audited(work, path, 0)

    split = splits.by_patient(manifest.read(data), 0)
    splits.write(path.parent / "split.csv", split, manifest.read(data))
    parts = trials.audited(work, path, 0)

    assert set(parts) == set(PARTS)
    assert parts["probes"]["counts"]["slices that show brain"] == 4  # of two patients, a tenth
    assert (work.output / "audit-heads").is_dir()
    assert capsys.readouterr().out == ""  # what a comparison prints is its table


def test_what_was_found_on_pictures_that_have_changed_since_is_not_taken_for_new(tmp_path: Path) -> None:
    data = table(tmp_path / "data", entries(many(2, 1, 1, 1), slices=1))
    before = Work(data=data, output=tmp_path).key(1)
    picture = data.with_name("normal0-0.png")
    os.utime(picture, (1, 1))
    assert Work(data=data, output=tmp_path).key(1) == before  # copied to another machine, say
    grey(picture, 99)
    assert Work(data=data, output=tmp_path).key(1) != before


def hold(path: Path, entered: multiprocessing.synchronize.Event) -> None:
    with in_turn(path):
        entered.set()
        multiprocessing.Event().wait()


def test_a_killed_process_leaves_its_turn_to_the_next(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    entered = context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "it", entered))
    holder.start()
    try:
        assert entered.wait(60)
    finally:
        holder.kill()
        holder.join(60)
    with in_turn(tmp_path / "it"):
        pass
    assert not (tmp_path / "it").exists()


def test_what_is_kept_is_made_again_for_another_stamp_or_after_damage(tmp_path: Path) -> None:
    plain = labelled([0, 0, 0], pictures=np.full((3, 224, 224), 7))
    asked: list[str] = []

    def make() -> Pictures:
        asked.append("made")
        return plain

    path = tmp_path / "cache" / "kept.npz"
    first = once(path, "a", Pictures, make)
    again = once(path, "a", Pictures, make)
    assert len(asked) == 1
    assert np.array_equal(first.pictures, again.pictures)
    assert path.stat().st_mode & 0o077 == 0
    once(path, "b", Pictures, make)
    path.write_bytes(path.read_bytes()[:1000])
    once(path, "b", Pictures, make)
    assert len(asked) == 3


def test_trials_of_one_seed_share_their_heads_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    def stop(_recipe: object, settings: Settings, _say: object) -> Path:
        folders.append(settings.phantom_folder)
        raise UnusableRun("far enough")

    monkeypatch.setattr("train.run.run", stop)
    for kept in (None, tmp_path / "kept"):
        work = Work(data=tmp_path / "x.csv", output=tmp_path / "out", phantoms=kept)
        for seed in ("0", "1"):
            with pytest.raises(UnusableRun):
                trials.trained(work, Trial("any", ROBUST.changed({"seed": seed})), silent)
    assert [str(each.relative_to(tmp_path)) for each in folders] == [
        f"{where}/phantoms-{seed}" for where in ("out", "kept") for seed in (0, 1)
    ]


def ended(_trial: Trial, _say: object) -> Made:
    os._exit(1)


def test_a_training_process_that_was_ended_is_reported() -> None:
    with pytest.raises(UnusableRun, match=r"a process that trains ended by itself with status 1; .*--at-once"):
        list(completing.made([Trial(name, ROBUST) for name in "abc"], ended, silent, 2))


def refused(_trial: Trial, _say: object) -> Made:
    raise UnusableTable(Path("m.csv"), [Problem(7, "path", "a.png is no picture")])


def test_a_refusal_comes_out_of_a_training_process_as_it_was() -> None:
    with pytest.raises(UnusableTable, match=r"row 7, path: a\.png is no picture"):
        list(completing.made([Trial(name, ROBUST) for name in "ab"], refused, silent, 2))
