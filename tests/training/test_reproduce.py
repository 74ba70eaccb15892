"""`reproduce`: rows are made once, the leaky split is named wherever it speaks, no number of a paper is invented."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from labelled import without_label
from listed import entries, many, table
from PIL import Image

from train.commands.reproduce import main
from train.dataset import manifest, splits
from train.dataset.manifest import Manifest
from train.errors import UnusableData
from train.learning.state import UnusableRun
from train.progress import silent
from train.reproduce import curves, papers, planned, reproducing, rows, subset, tables
from train.reproduce.planned import CHAPTERS, Row

SMALL = "mobilenetv3_small_050"


def drawn(path: Path) -> None:
    """A head of its own outline, grainier where its patient bleeds."""
    patient = re.sub(r"-\d+\.png", "", path.name)
    random = np.random.default_rng(list(path.name.encode()))
    of_patient = np.random.default_rng(list(patient.encode()))
    y, x = np.mgrid[:64, :64] - 31.5
    inside = np.hypot(x / of_patient.uniform(20, 28), y / of_patient.uniform(24, 30)) < 1
    grain = 4 if patient.startswith("normal") else 12
    picture = np.where(inside, 100 + grain * random.standard_normal((64, 64)), 0)
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return manifest.read(table(tmp_path_factory.mktemp("data"), entries(many(8, 5, 4, 4), slices=4), draw=drawn))


@pytest.fixture
def work(data: Manifest, tmp_path: Path) -> rows.Reproduction:
    return rows.Reproduction(data=data, output=tmp_path / "out", quick=True, pretrained="none", device="cpu", threads=1)


def make_and_keep(work: rows.Reproduction, row: Row) -> None:
    rows.kept(work).keep(row, rows.make(work, row, silent))


def of_yardsticks(seeds: int = 1) -> list[Row]:
    return planned.plan(["yardsticks"], seeds, quick=True)


def test_every_encoder_of_the_papers_has_a_row_on_both_splits():
    plan = planned.plan(CHAPTERS, 2, quick=False)
    assert len({row.name for row in plan}) == len(plan)
    for chapter, subjects in (("v1", planned.OTHERS["v1"]), ("v2", planned.OTHERS["v2"])):
        for subject in (*subjects, planned.DTVIT[chapter]):
            found = {
                (row.split, row.seed)
                for row in plan
                if (row.chapter, row.subject, row.replicate) == (chapter, subject, True)
            }
            assert found == {("paper", 0), ("apart", 0), ("paper", 1), ("apart", 1)}
        plain = {row.split for row in plan if row.chapter == chapter and not row.replicate}
        assert plain == {"slices", "apart"}


def test_a_row_from_scratch_has_a_schedule_of_its_own_and_one_with_weights_has_the_papers(work):
    row = Row("v1", "vit_base_patch16_224", True, "apart", 0)
    full = rows.Reproduction(data=work.data, output=work.output, quick=False)
    scratch, pretrained = rows.planned(full, row, "none"), rows.planned(full, row, "auto")
    assert (scratch.optimiser, scratch.schedule, scratch.pretrained) == ("adamw", "cosine", "none")
    assert (pretrained.optimiser, pretrained.learning_rate, pretrained.epochs) == ("sgd", 0.01, 50.0)
    assert pretrained.sampling == "replicate"
    assert rows.planned(full, Row("v2", "resnet18", False, "slices", 0), "auto").batch == 8


def test_rows_on_prepared_pictures_say_what_those_went_through(work):
    row = Row("v1", "resnet34", True, "paper", 0)
    prepared = tuple(dataclasses.replace(each, brace_removal="robust-1") for each in work.data.rows)
    of_prepared = dataclasses.replace(work, data=dataclasses.replace(work.data, rows=prepared))
    assert [rows.planned(each, row, "auto").preprocessing for each in (work, of_prepared)] == ["paper", "robust"]


def test_a_yardstick_sees_its_twins_only_where_slices_are_mixed(work):
    made = {row.split: rows.make(work, row, silent) for row in of_yardsticks() if row.subject == "nearest"}
    for split, found in made.items():
        assert found["label"] == (splits.LEAKY if split != "apart" else "patients apart")
        assert sum(found["slices"].values()) == {"paper": 4 * (8 * 3 + 5 + 4 * 3 + 4 * 12)}.get(split, 84)
    assert made["paper"]["metrics"]["presence"]["slice"]["accuracy"] > 0.95


def test_existing_rows_are_not_made_again(work, monkeypatch):
    plan = [row for row in of_yardsticks() if row.subject in ("nearest", "noise")]
    assert reproducing.reproduce(work, plan, papers.read(), "reproduce", silent) == []
    monkeypatch.setattr(rows, "make", lambda *_: pytest.fail("made again"))
    reproducing.reproduce(work, plan, papers.read(), "reproduce", silent)


def test_a_row_of_other_data_or_another_way_is_made_again(work, data, tmp_path):
    row = of_yardsticks()[0]
    make_and_keep(work, row)
    assert rows.kept(work).known(row) is not None
    assert rows.kept(rows.Reproduction(data=data, output=work.output, quick=False)).known(row) is None
    path = rows.kept(work).file(row)
    path.write_text(path.read_text()[:-5])
    assert rows.kept(work).known(row) is None


def test_a_stop_leaves_a_page_of_the_rows_so_far(work, monkeypatch):
    make, plan = rows.make, of_yardsticks()[:3]

    def stopped(work, row, say):
        if row == plan[2]:
            raise KeyboardInterrupt
        return make(work, row, say)

    monkeypatch.setattr(rows, "make", stopped)
    with pytest.raises(KeyboardInterrupt):
        reproducing.reproduce(work, plan, papers.read(), "reproduce", silent)
    assert "2 of 3 rows are made" in (work.output / "reproduce.md").read_text()


def test_a_row_that_cannot_be_made_is_reported_and_does_not_stop_the_others(work, monkeypatch):
    make, plan = rows.make, of_yardsticks()[:3]

    def failing(work, row, say):
        if row == plan[0]:
            raise UnusableRun("the loss is not finite")
        return make(work, row, say)

    monkeypatch.setattr(rows, "make", failing)
    assert reproducing.reproduce(work, plan, papers.read(), "reproduce", silent) == [plan[0].name]
    text = (work.output / "reproduce.md").read_text()
    assert "the loss is not finite" in text
    assert "2 of 3 rows are made" in text


def test_two_at_once_are_not_let_into_one_folder(work):
    from train.learning.state import claimed

    with claimed(work.output), pytest.raises(UnusableRun, match="another process"):
        reproducing.reproduce(work, [], papers.read(), "reproduce", silent)


def test_a_model_is_trained_measured_and_shown_and_its_weights_are_removed(work):
    work = dataclasses.replace(work, max_time=0.01)
    plan = [Row("v2", SMALL, True, split, 0) for split in ("paper", "apart")]
    assert reproducing.reproduce(work, plan, papers.read(), "reproduce", silent) == []
    for row in plan:
        made = rows.kept(work).known(row)
        assert made is not None
        assert made["scratch"]
        assert made["curve"][-1]["step"] > 0
        assert 0 <= made["metrics"]["presence"]["slice"]["accuracy"] <= 1
    assert not list(work.output.rglob("*.safetensors"))
    assert not list(work.output.rglob("*.pt"))
    with (work.output / "v2-encoders.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    mixed, apart = (
        next(line for line in lines if line["split"] == name and line["accuracy"] != "not made")
        for name in ("slices mixed", "patients apart")
    )
    assert mixed["started"] == apart["started"] == "from scratch"


def test_whatever_slices_that_are_mixed_yield_carries_its_label(work):
    work = dataclasses.replace(work, max_time=0.01, keep=True)
    plan = [Row("v2", planned.SMALL_DTVIT["v2"], True, "paper", 0), Row("yardsticks", "nearest", False, "paper", 0)]
    assert reproducing.reproduce(work, plan, papers.read(), "reproduce", silent) == []
    written = {path.suffix for path in work.output.rglob("*")}
    assert written >= {".html", ".md", ".csv", ".png", ".json", ".npz", ".safetensors"}
    assert without_label(work.output) == []


def made_by_hand(accuracy: float, split: str = "apart") -> dict:
    cell = {"accuracy": accuracy, "precision": 0.5, "recall": 0.5, "specificity": 0.5, "f1": 0.5, "auc": 0.5}
    presence = {"slice": cell | {"confusion": [[30, 10], [5, 55]]}, "patient": {"auc": 0.5}}
    location = {"slice": {"accuracy": 0.5, "balanced_accuracy": None, "confusion": [[1, 0, 0]] * 3}, "patient": {}}
    return {
        "metrics": {"presence": presence, "location": location},
        "scratch": True,
        "start": "",
        "curve": [],
        "label": split,
    }


def test_tables_put_the_papers_the_mixed_and_the_honest_number_side_by_side():
    line = ("v2", "vit_large_patch16_224", True)
    pairs = [(Row(*line, split, seed), made_by_hand(value)) for split, seed, value in (
        ("paper", 0, 0.99), ("apart", 0, 0.7), ("apart", 1, 0.8))]  # fmt: skip
    found = tables.models("x", "x", [line], pairs, papers.read(), "vit_large_patch16_224")
    columns = dict(zip(found.header, zip(*found.lines, strict=True), strict=True))
    assert columns["split"] == ("the paper", "slices mixed", "patients apart")
    assert columns["accuracy"] == ("-", "0.990", "0.750 ± 0.071 (2)")
    assert columns["both heads"][0] == "0.9988"
    assert columns["location, balanced"] == ("-", "none", "none")
    assert "-: the paper's number is not at hand" in found.note
    assert columns["recall by v1's formula"][1] == f"{55 / 85:.3f}"


def test_no_mean_is_over_rows_that_started_differently():
    """As where the hub of the weights could not be reached for one seed."""
    line = ("v2", "vit_large_patch16_224", True)
    made = [made_by_hand(0.6), made_by_hand(0.8) | {"scratch": False, "start": "ImageNet"}, made_by_hand(0.7)]
    pairs = [(Row(*line, "apart", seed), each) for seed, each in enumerate(made)]
    found = tables.models("x", "x", [line], pairs, papers.read(), "vit_large_patch16_224")
    columns = dict(zip(found.header, zip(*found.lines, strict=True), strict=True))
    assert columns["split"] == ("the paper", "slices mixed", "patients apart", "patients apart")
    assert columns["started"][2:] == ("ImageNet", "from scratch")
    assert columns["accuracy"][2:] == ("0.800", "0.650 ± 0.071 (2)")


def test_a_figure_of_one_of_two_seeds_is_not_a_mean_of_two():
    line = ("v2", "vit_large_patch16_224", True)
    pairs = [(Row(*line, "apart", seed), made_by_hand(0.7)) for seed in (0, 1)]
    pairs[1][1]["metrics"]["location"]["slice"]["balanced_accuracy"] = 0.4
    found = tables.models("x", "x", [line], pairs, papers.read(), "vit_large_patch16_224")
    assert dict(zip(found.header, found.lines[-1], strict=True))["location, balanced"] == "0.400 (1)"


def test_curves_show_every_point_though_the_losses_have_different_scales():
    """v2 halves its training loss; the validation loss is the plain sum, and lay above the axes."""
    points = [{"step": step, "training_loss": 0.9 - step / 100, "validation_loss": 1.9} for step in (5, 10)]
    made = [(Row("v2", SMALL, True, split, 0), made_by_hand(0.5) | {"curve": points}) for split in ("paper", "apart")]
    figure = curves.drawn(made)
    assert figure is not None
    for axis in figure.axes:
        low, high = axis.get_ylim()
        drawn = np.concatenate([line.get_ydata() for line in axis.lines])
        assert len(axis.lines) == 2
        assert low == 0 < drawn.min()
        assert drawn.max() < high
    assert curves.drawn([(row, each | {"curve": []}) for row, each in made]) is None


def test_quick_rows_of_the_two_papers_are_not_the_same_run_twice():
    """From scratch both have one schedule: with the same encoder they would differ by a factor of the loss alone."""
    assert planned.dtvit("v1", quick=True) != planned.dtvit("v2", quick=True)
    assert {planned.dtvit(chapter, quick=True) for chapter in ("v1", "v2")} <= set(planned.NAMES)


def test_a_number_without_a_source_or_of_an_unknown_figure_is_refused(tmp_path):
    path = tmp_path / "papers.toml"
    path.write_text('[[number]]\nchapter="v1"\nline="dtvit"\nfigure="accuracy"\nvalue=0.9\n')
    with pytest.raises(UnusableData, match="source"):
        papers.read(path)
    path.write_text('[[number]]\nchapter="v3"\nline="dtvit"\nfigure="accuracy"\nvalue=0.9\nsource="x"\n')
    with pytest.raises(UnusableData, match="chapter must be v1 or v2"):
        papers.read(path)


def test_a_subset_keeps_whole_kinds_and_few_slices(data, tmp_path):
    (tmp_path / "subset.csv").write_bytes(subset.as_csv(data))
    small = manifest.read(tmp_path / "subset.csv")
    assert len(small.rows) == len(data.rows)  # as few as these are all taken
    assert {row.patient_id for row in small.rows} == {row.patient_id for row in data.rows}
    assert {(row.path, row.ich, row.location) for row in small.rows} == {(r.path, r.ich, r.location) for r in data.rows}


def test_a_subset_takes_a_patient_for_what_their_slices_show_whichever_comes_first(tmp_path):
    """Where slices are labelled one by one, most patients who bled begin with a slice without blood."""
    lines = ["path,patient_id,ich,location"]
    for number, place in enumerate([""] * 20 + ["deep"] * 12 + ["lobar"] * 8):
        for name, label in (("a", ",0,"), ("b", f",1,{place}" if place else ",0,")):
            Image.fromarray(np.full((32, 32), 1 + number, np.uint8)).save(tmp_path / f"{number}{name}.png")
            lines.append(f"{number}{name}.png,patient {number}{label}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "subset.csv").write_bytes(subset.as_csv(manifest.read(tmp_path / "manifest.csv")))
    small = manifest.read(tmp_path / "subset.csv").rows
    assert len({row.patient_id for row in small}) == 14 + 10 + 6
    assert sum(row.location == "deep" for row in small) == 10
    assert sum(row.location == "lobar" for row in small) == 6


def test_the_command_reports_bad_data_and_makes_nothing(tmp_path, capsys):
    (tmp_path / "manifest.csv").write_text("path,patient_id,ich\na.png,a,1\n")
    assert main(["--data", str(tmp_path / "manifest.csv"), "--output", str(tmp_path / "out")], "reproduce") == 1
    assert "row 2, path: a.png is not there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("quick", [True, False])
def test_rows_of_other_data_are_not_mixed_with_new_ones(data, tmp_path, quick):
    out = tmp_path / "out"
    out.mkdir()
    known = reproducing.data_of(data.path, out, quick=quick)
    make_and_keep(rows.Reproduction(data=known, output=out, quick=quick), of_yardsticks()[0])
    roundabout = data.path.parent / ".." / data.path.parent.name / data.path.name
    assert reproducing.data_of(roundabout, out, quick=quick).digest == known.digest

    other = data.path.with_name("other.csv")
    other.write_text("\n".join(data.path.read_text().splitlines()[:-1]) + "\n")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UnusableData, match=r"out holds rows of other data than .*other\.csv.*another folder"):
        reproducing.data_of(other, out, quick=quick)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("quick", [True, False])
def test_rows_of_other_pictures_under_the_same_manifest_are_not_taken_for_new_ones(tmp_path, quick):
    """As a newer version of `prepare` leaves them. What is only copied or touched is the same."""
    data = table(tmp_path / "data", entries(many(8, 5, 4, 4), slices=4), draw=drawn)
    out, row = tmp_path / "out", of_yardsticks()[1]
    out.mkdir()
    before = rows.Reproduction(data=reproducing.data_of(data, out, quick=quick), output=out, quick=quick)
    make_and_keep(before, row)
    for picture in data.parent.glob("*.png"):
        os.utime(picture, (1, 1))
    again = rows.Reproduction(data=reproducing.data_of(data, out, quick=quick), output=out, quick=quick)
    assert rows.kept(again).known(row) is not None

    for picture in data.parent.glob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    with pytest.raises(
        UnusableData, match=r"out holds rows of other pictures than .*manifest\.csv lists now.*--output"
    ):
        reproducing.data_of(data, out, quick=quick)
    changed = rows.Reproduction(data=before.data, output=out, quick=quick)
    assert rows.kept(changed).known(row) is None
    assert not np.array_equal(changed.seen.features, before.seen.features)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--pretrained", "gone"], "--pretrained takes auto, none or an existing folder, got 'gone'"),
        (["--max-time", "0"], "must be more than 0, got 0"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available"),
    ],
    ids=str,
)
def test_a_wrong_option_is_reported_before_the_first_row(data, tmp_path, capsys, option, told):
    try:
        code = main(["--data", str(data.path), "--output", str(tmp_path / "out"), "--quick", *option], "reproduce")
    except SystemExit as exc:
        code = exc.code
    assert code in (1, 2)
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_writes_one_page_with_what_readers_must_know(data, tmp_path, capsys):
    out = tmp_path / "my out"
    arguments = ["--data", str(data.path), "--output", str(out), "--quick", "--only", "yardsticks", "--seeds", "1"]
    assert main(arguments, "reproduce") == 0
    assert capsys.readouterr().out == f"{out / 'reproduce.html'}\n"
    for text in ((out / "reproduce.md").read_text(), (out / "reproduce.html").read_text()):
        for word in ("slices mixed", "12,651", "TP + TN", "upside down", "mean of the accuracies", "the last one"):
            assert word in text
    assert f"--output '{out}' --quick" in (out / "reproduce.md").read_text()  # as a shell takes it
    assert len(list((out / "rows").glob("*.json"))) == 15
    json.loads((out / "rows" / "yardsticks-all-plain-apart-0.json").read_text())
