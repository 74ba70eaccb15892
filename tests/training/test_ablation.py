"""`train ablate`: each row lacks one ingredient and no other; rows are made once; the table says what is there."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from listed import entries, many, table

from train import recipe
from train.commands.ablate import main
from train.comparing.ablation import ROWS, ablate, planned
from train.comparing.columns import COLUMNS, told
from train.comparing.trials import Work
from train.learning.state import UnusableRun
from train.progress import silent
from train.recipe import UnusableRecipe

FIGURES = {
    "metrics": {
        "presence": {"slice": {"auc": 0.9}, "patient": {"auc": 1.0}},
        "location": {"slice": {"balanced_accuracy": None}},
    },
    "audit": {
        "probes": {"blanked": {"slice_auc": 0.5}, "blanked_noise": {"slice_auc": 0.7}},
        "counterfactuals": {
            "counts": {"trusted": 3},
            "healed": {"membrane": {"flipped": 1.0, "sham_flipped": 0.0, "vs_normal_auc": 0.5}},
            "transplanted": {"poisson": {"flipped": 0.8, "sham_flipped": 0.1}},
        },
        "phantoms": {
            "auc_over_5_ml": 0.99,
            "lookalikes": {"lime": {"false_alarms": 1.0}, "falx": {"false_alarms": 0.0}},
        },
    },
}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    data = table(tmp_path / "data", entries(many(2, 1, 1, 1), slices=1))
    return Work(data=data, output=tmp_path / "out", minutes=1)


def lines(work: Work) -> dict[str, list[str]]:
    text = (work.output / "ablation.md").read_text()
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return {cell[0]: cell[1:] for cell in cells}


def test_every_row_is_the_whole_recipe_except_what_it_is_named_for():
    whole = planned(ROWS[1], 3, {})
    assert whole == recipe.read("robust").changed({"seed": "3"})
    for row in ROWS[2:]:
        found, expected = planned(row, 3, {}).recorded(), whole.recorded()
        assert {key for key in expected if found[key] != expected[key]} == set(row.changes)
    first = planned(ROWS[0], 3, {})
    assert (first.pretrained, first.split, first.counterfactuals) == ("none", "patient", False)
    for key in ("steps", "epochs", "batch", "encoder"):
        assert getattr(first, key) == getattr(whole, key)
    assert first.sampling == "replicate"


def test_what_is_changed_for_all_rows_leaves_each_its_difference():
    changes = {"steps": "7", "encoder": "vit_small_patch16_224", "learning_rate": "0.25"}
    rows = {row.name: planned(row, 0, changes) for row in ROWS}
    assert {row.steps for row in rows.values()} == {7}
    assert rows["robust"].learning_rate == 0.25
    assert (rows["robust"].encoder, rows["v2"].encoder) == ("vit_small_patch16_224",) * 2
    assert rows["vit-base"].encoder == "vit_base_patch16_224"


@pytest.mark.parametrize("split", ["paper", "all"])
def test_a_split_that_mixes_patients_or_tests_none_is_refused(work: Work, split: str):
    with pytest.raises(UnusableRecipe, match=f"'{split}'.* keeps patients apart"):
        ablate(replace(work, changes={"split": split}), ROWS, 1, "the command", silent, lambda *_: FIGURES)
    assert not (work.output / "rows").exists()


def test_rows_are_made_once_and_the_table_has_their_mean_and_spread(work: Work):
    asked = []

    def make(_work, trial, _say):
        asked.append(trial.name)
        figures = json.loads(json.dumps(FIGURES))
        figures["metrics"]["presence"]["slice"]["auc"] = 0.9 + 0.02 * trial.recipe.seed
        return figures

    assert ablate(work, ROWS[:2], 2, "the command", silent, make) == []
    assert asked == ["v2-0", "robust-0", "v2-1", "robust-1"]
    assert ablate(work, ROWS[:2], 2, "the command", silent, make) == []
    assert len(asked) == 4
    shown = dict(zip([column.title for column in COLUMNS], lines(work)["robust, whole"][1:], strict=True))
    assert shown["slice AUC"] == "0.910 ± 0.014"
    assert shown["location, balanced"] == "-"
    assert shown["blanked AUC"] == "0.600 ± 0.000"
    assert shown["sham flips"] == "0.050 ± 0.000"
    assert shown["look-alikes called"] == "0.500 ± 0.000"
    assert "4 of 4 rows are made" in (work.output / "ablation.md").read_text()


def test_a_mean_over_some_seeds_says_over_how_many():
    assert told([0.5, math.nan, 0.7]) == "0.600 ± 0.141 (2 of 3)"
    assert told([0.5, math.nan]) == "0.500 (1 of 2)"
    assert told([0.5]) == "0.500"


def test_a_row_that_fails_does_not_stop_the_others_and_is_tried_again(work: Work):
    def make(_work, trial, _say):
        if trial.name == "v2-0":
            raise UnusableRun("the loss is no number")
        return FIGURES

    assert ablate(work, ROWS[:2], 1, "x", silent, make) == ["v2-0"]
    assert lines(work)[ROWS[0].what][:2] == ["0", "-"]
    assert ablate(work, ROWS[:2], 1, "x", silent, lambda *_: FIGURES) == []
    assert lines(work)[ROWS[0].what][0] == "1"


def test_the_papers_row_on_prepared_pictures_says_what_those_went_through():
    assert [planned(row, 0, {}, {"robust-1"}).preprocessing for row in ROWS[:2]] == ["robust", "mixed"]
    assert planned(ROWS[0], 0, {}).preprocessing == "paper"


def test_rows_of_other_data_or_another_time_do_not_count(work: Work):
    asked = []

    def make(work, _trial, _say):
        asked.append(work)
        return FIGURES

    ablate(work, ROWS[:1], 1, "x", silent, make)
    ablate(work, ROWS[:1], 1, "x", silent, make)
    assert len(asked) == 1
    for other in ({"minutes": 2}, {"minutes": 1, "audit": "quick"}, {"minutes": 1, "changes": {"steps": "9"}}):
        ablate(Work(data=work.data, output=work.output, **other), ROWS[:1], 1, "x", silent, make)
    assert len(asked) == 4
    ablate(work, ROWS[:1], 1, "x", silent, make)
    work.data.write_text(work.data.read_text() + "\n")
    ablate(replace(work), ROWS[:1], 1, "x", silent, make)  # of a later command
    assert len(asked) == 6


def test_the_command_names_rows_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--data", "x.csv", "--output", str(tmp_path), "--only", "nothing"], "ablate") == 2
    assert "the rows are v2, robust" in capsys.readouterr().err
    assert main(["--data", str(tmp_path / "x.csv"), "--output", str(tmp_path)], "ablate") == 1
    assert "x.csv" in capsys.readouterr().err
