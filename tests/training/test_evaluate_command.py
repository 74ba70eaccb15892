"""`evaluate`: from a manifest and a checkpoint to a folder that a person and a program can read."""

import csv
import dataclasses
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from labelled import without_label
from learning import bare, written
from listed import entries, grey, table
from PIL import Image
from sklearn import metrics
from untrained import untrained_checkpoint

from dtvit import checkpoint as checkpoints
from dtvit.checkpoint import describe, load
from dtvit.inference import Classifier
from dtvit.preprocess import PAPER_GEOMETRY, preprocessing
from train.card import model_card
from train.commands.evaluate import main
from train.dataset import filed, manifest, splits
from train.dataset.pictures import ORIGINS, stack
from train.evaluation import drift, plots
from train.evaluation.cases import TAUGHT, gather

PATIENTS = [("a", ""), ("b", ""), ("c", "deep"), ("d", "lobar"), ("e", "subtentorial"), ("f", "deep")]
FITTED_HERE = "Temperatures and thresholds were fitted on patients measured here; what depends on them is too good."
FAST = ("--resamples", "40", "--examples", "2", "--threads", "1")


def head(path, seed):
    """A disk on black, brighter or darker, with noise: no two alike."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    disk = np.hypot(rows - 32, columns - 32) < 24
    Image.fromarray(np.where(disk, random.normal(90 + 20 * (seed % 5), 6, (64, 64)), 0).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("data")
    for seed, row in enumerate(entries(PATIENTS)):
        head(made / row["path"], seed)
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    return untrained_checkpoint(path, preprocessing=(preprocessing("robust"),))


def listing(folder, rows, name="manifest.csv"):
    path = folder / name
    table(folder, rows).rename(path)
    return path


def run(checkpoint, data, output, *options):
    return main(
        [str(checkpoint), "--data", str(data), "--output", str(output), "--device", "cpu", *options], "evaluate"
    )


def metrics_of(output):
    return json.loads((output / "metrics.json").read_text())


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def quick(monkeypatch):
    """Figures are not drawn to the end, which takes most of the time; for tests that look at none."""
    dot = io.BytesIO()
    Image.new("L", (1, 1)).save(dot, "png")
    monkeypatch.setattr(plots, "_png", lambda _figure, _label: dot.getvalue())


@pytest.fixture(scope="module")
def evaluated(folder, checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("results")
    assert run(checkpoint, listing(folder, entries(PATIENTS), "whole.csv"), output, "--relevance") == 0
    return output


def test_figures_follow_from_the_predictions_that_lie_beside_them(evaluated):
    slices, series = rows_of(evaluated / "predictions.csv"), rows_of(evaluated / "series.csv")
    found = metrics_of(evaluated)

    for level, rows, score in (("slice", slices, "probability"), ("patient", series, "output")):
        truth = [int(row["ich"]) for row in rows]
        scores = [float(row[score]) for row in rows]
        called = [each >= found["presence"][level]["cut"] for each in scores]
        figures = found["presence"][level]
        assert figures["auc"] == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-4)
        assert figures["recall"] == pytest.approx(metrics.recall_score(truth, called), abs=1e-4)
        assert figures["confusion"] == metrics.confusion_matrix(truth, called).tolist()
        low, high = figures["auc_ci"]
        assert low <= figures["auc"] <= high
        bleeding = [row for row in rows if row["ich"] == "1"]
        right = np.mean([row["location"] == row["place"] for row in bleeding])
        assert found["location"][level]["accuracy"] == pytest.approx(right, abs=1e-4)
    assert found["presence"]["slice"]["brier"] == pytest.approx(
        metrics.brier_score_loss([int(row["ich"]) for row in slices], [float(row["probability"]) for row in slices]),
        abs=1e-4,
    )


@pytest.mark.filterwarnings("ignore:A single label", "ignore:`y1`")  # in some resamples of six patients
def test_a_custom_figure_gets_an_interval_as_the_docs_show(evaluated, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kappa.py", str(evaluated)])
    exec(written("evaluation.md", '"""python kappa.py'), {})
    kappa, low, high = map(float, re.findall(r"-?\d\.\d+", capsys.readouterr().out))
    rows = rows_of(evaluated / "predictions.csv")
    called = [float(row["probability"]) >= 0.5 for row in rows]
    assert kappa == pytest.approx(metrics.cohen_kappa_score([row["ich"] == "1" for row in rows], called))
    assert low <= kappa <= high


def test_probabilities_are_those_that_the_node_gives(evaluated, folder, checkpoint):
    rows = rows_of(evaluated / "predictions.csv")
    found = manifest.read(folder / "whole.csv")
    pictures = filed.load(found, splits.whole(found)).pictures[:, 16:240, 16:240]
    given = Classifier.load(checkpoint, device="cpu").predict(np.ascontiguousarray(pictures))

    assert np.allclose([float(row["probability"]) for row in rows], given.presence, atol=1e-5)
    assert np.allclose([float(row["probability_lobar"]) for row in rows], given.location[:, 1], atol=1e-5)
    assert [row["path"] for row in rows] == [row["path"] for row in entries(PATIENTS)]


class Outside(HTMLParser):
    """What a page asks of the world, and what could run in it."""

    def __init__(self):
        super().__init__()
        self.asked, self.tags = [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.asked += [
            v for key, v in attributes if key in ("src", "href") and not v.startswith("data:image/png;base64")
        ]


def test_the_report_is_one_file_that_needs_nothing(evaluated):
    page = (evaluated / "report.html").read_text()
    parser = Outside()
    parser.feed(page)

    assert parser.asked == []
    assert not parser.tags & {"script", "iframe", "link", "object"}
    assert "url(" not in page
    assert page.index("NOT FOR CLINICAL USE") < page.index("<h1>") < page.index("18 slices in 6 series of 6 patients")
    assert "What this does not show" in page
    for name in ("answers.png", "curves.png", "reliability.png", "confusion.png", "strata.png"):
        Image.open(evaluated / name).verify()


def test_the_gallery_shows_real_errors_one_per_series(evaluated):
    rows = {row["row"]: row for row in rows_of(evaluated / "predictions.csv")}
    names = [path.stem for path in (evaluated / "gallery").iterdir()]
    shown = [re.fullmatch(r"(missed|false-alarm|wrong-place)-\d\d-row-(\d+)", name).groups() for name in names]

    assert shown
    for kind, number in shown:
        row = rows[number]
        wrong = {
            "missed": row["ich"] == "1" and float(row["probability"]) < 0.5,
            "false-alarm": row["ich"] == "0" and float(row["probability"]) >= 0.5,
            "wrong-place": row["ich"] == "1" and row["place"] != row["location"],
        }
        assert wrong[kind]
    for kind in ("missed", "false-alarm", "wrong-place"):
        series = [rows[number]["series"] for each, number in shown if each == kind]
        assert len(series) == len(set(series))


def test_relevance_is_there_as_arrays_in_the_order_of_the_predictions(evaluated):
    with np.load(evaluated / "relevance.npz") as arrays:
        maps, numbers = arrays["maps"], arrays["row"]

    assert [str(number) for number in numbers] == [row["row"] for row in rows_of(evaluated / "predictions.csv")]
    assert maps.shape[0] == 18
    assert maps.shape[1] == maps.shape[2]
    assert maps.max() <= 1


@pytest.mark.usefixtures("quick")
def test_no_table_and_no_file_name_identifies_a_patient(folder, checkpoint, tmp_path):
    rows = [row | {"patient_id": f"Zebedee^{row['patient_id']}"} for row in entries(PATIENTS)]
    assert run(checkpoint, listing(folder, rows, "named.csv"), tmp_path) == 0

    for path in tmp_path.rglob("*"):
        assert "Zebedee" not in path.name
        assert path.is_dir() or b"Zebedee" not in path.read_bytes()


@pytest.mark.usefixtures("quick")
def test_sites_scanners_and_masks_make_strata(folder, checkpoint, tmp_path):
    rows = [row | {"site": "north" if i < 9 else "south", "scanner": ""} for i, row in enumerate(entries(PATIENTS))]
    for row in rows:
        if row["ich"] == "1":
            mask = np.zeros((64, 64), np.uint8)
            mask[30:34, 30:34] = 255  # 16 of about 1,800 pixels of head
            (tmp_path / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(tmp_path / "masks" / row["path"])

    code = run(checkpoint, listing(folder, rows, "sites.csv"), tmp_path / "out", "--masks", str(tmp_path / "masks"))

    strata = metrics_of(tmp_path / "out")["strata"]["slice"]
    assert code == 0
    assert set(strata) == {"location", "share_of_head", "site"}
    assert strata["site"]["north"]["positives"] == 3
    assert {name: each["positives"] for name, each in strata["share_of_head"].items()} == {"0.005-0.02": 12}


@pytest.mark.usefixtures("quick")
def test_masks_may_be_named_by_a_column(folder, checkpoint, tmp_path):
    grey(folder / "lesion.png", 255, (64, 64))
    rows = [row | {"traced_by_a": "lesion.png" if row["ich"] == "1" else ""} for row in entries(PATIENTS)]
    data = listing(folder, rows, "masked.csv")

    assert run(checkpoint, data, tmp_path, "--masks", "traced_by_a") == 0
    assert set(metrics_of(tmp_path)["strata"]["slice"]["share_of_head"]) == {"0.06-1"}


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ("{folder}/gone", "--masks {folder}/gone: neither a folder nor a column of {data}"),
        (
            "{folder}/empty",
            "no mask for any picture with hemorrhage in {data} (such as {folder}/empty/{first}, or the ",
        ),
        (
            "unfilled",
            "--masks unfilled has no mask for any picture with hemorrhage in {data} (its cell is empty in all 12",
        ),
        ("misspelt", "row {row}, mask: lesoin.png is not there"),
    ],
)
def test_missing_masks_are_reported_before_a_picture_is_read(
    folder, checkpoint, tmp_path, monkeypatch, capsys, masks, said
):
    def read(*_args, **_keywords):
        raise AssertionError("a picture was read first")

    monkeypatch.setattr(filed, "load", read)
    rows = [row | {"unfilled": "", "misspelt": "lesoin.png"} for row in entries(PATIENTS)]
    data = listing(folder, rows, "masks.csv")
    (tmp_path / "empty").mkdir()
    numbers = [number for number, row in enumerate(rows) if row["ich"] == "1"]
    names = {"folder": tmp_path, "data": data, "first": rows[numbers[0]]["path"], "row": numbers[0] + 2}

    assert run(checkpoint, data, tmp_path / "out", "--masks", masks.format(**names)) == 1
    assert said.format(**names) in capsys.readouterr().err


def test_masks_without_any_hemorrhage_are_refused(folder, checkpoint, tmp_path, capsys):
    healthy = listing(folder, [row for row in entries(PATIENTS) if row["ich"] == "0"], "healthy.csv")
    assert run(checkpoint, healthy, tmp_path / "out", "--masks", str(folder)) == 1
    assert "no picture with hemorrhage is evaluated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "lost", "why"),
    [
        (lambda rows: [row for row in rows if row["ich"] == "0"], "presence", "nothing with hemorrhage"),
        (lambda rows: [row for row in rows if row["ich"] == "1"], "presence", "nothing without hemorrhage"),
        (lambda rows: [row | {"ich": "", "location": ""} for row in rows], "presence", "nothing with a label"),
        (lambda rows: [row | {"location": ""} for row in rows], "location", "no hemorrhage whose location is known"),
        (lambda rows: [{"path": r["path"], "patient_id": r["patient_id"]} for r in rows], "presence", "with a label"),
    ],
)
def test_what_a_manifest_from_elsewhere_lacks_is_null_with_the_reason(folder, checkpoint, tmp_path, change, lost, why):
    code = run(checkpoint, listing(folder, change(entries(PATIENTS)), "elsewhere.csv"), tmp_path)

    found = metrics_of(tmp_path)[lost]["patient"]
    assert code == 0
    assert found["auc"] is None
    assert why in found["auc_why"]
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_answers_are_given_without_labels(folder, checkpoint, tmp_path):
    rows = [{"path": row["path"], "patient_id": row["patient_id"]} for row in entries(PATIENTS)]

    assert run(checkpoint, listing(folder, rows, "unlabelled.csv"), tmp_path, *FAST) == 0

    said = [row["answer"] for row in rows_of(tmp_path / "series.csv")]
    found = metrics_of(tmp_path)["presence"]["patient"]["answers"]["unlabelled"]
    report = (tmp_path / "report.html").read_text()
    assert found["count"] == len(said) == 6
    assert found["present"] == pytest.approx(said.count("present") / 6, abs=1e-4)
    assert "Of the 6 series without a label the node would call" in report
    assert (tmp_path / "answers.png").exists()
    assert plots.answers({"presence": {level: {"answers": {}} for level in ("slice", "patient")}}, "no split") is None


def test_it_runs_on_a_machine_with_nothing_but_what_training_needs(folder, checkpoint, tmp_path):
    given = ["evaluate", str(checkpoint), "--data", str(listing(folder, entries(PATIENTS), "bare.csv")), *FAST]
    ended = bare(*given, "--output", str(tmp_path), "--device", "cpu")

    assert ended.returncode == 0, ended.stderr
    assert "predicting (18)" in ended.stderr
    assert metrics_of(tmp_path)["presence"]["slice"]["positives"] == 12


@pytest.mark.usefixtures("quick")
def test_a_part_is_evaluated_where_the_manifest_has_parts(folder, checkpoint, tmp_path):
    rows = [row | {"split": "test" if row["patient_id"] in "ac" else "train"} for row in entries(PATIENTS)]
    data = listing(folder, rows, "parts.csv")

    assert run(checkpoint, data, tmp_path) == 0

    assert {row["path"][0] for row in rows_of(tmp_path / "predictions.csv")} == {"a", "c"}
    assert len(gather(data, "all", geometry=PAPER_GEOMETRY).rows) == 18
    assert len(gather(data, "train", geometry=PAPER_GEOMETRY).rows) == 12


@pytest.mark.usefixtures("quick")
def test_every_number_of_the_papers_split_is_labelled_and_no_other_claims_that_patients_are_apart(
    folder, checkpoint, tmp_path, capsys
):
    found = manifest.read(listing(folder, entries(PATIENTS), "papers.csv"))
    splits.write(tmp_path / "split.csv", splits.paper(found, 0), found)
    assert run(checkpoint, found.path, tmp_path / "mixed", "--split", str(tmp_path / "split.csv")) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if ": " in line]
    assert printed
    assert all(line.endswith(f"; {splits.LEAKY}") for line in printed)
    assert metrics_of(tmp_path / "mixed")["split"] == splits.LEAKY

    assert run(checkpoint, found.path, tmp_path / "whole") == 0
    assert metrics_of(tmp_path / "whole")["split"] == "no split"
    assert "patients apart" not in (tmp_path / "whole" / "report.html").read_text()


def test_whatever_the_papers_split_yields_carries_its_label(folder, checkpoint, tmp_path):
    found = manifest.read(listing(folder, entries(PATIENTS), "papers.csv"))
    splits.write(tmp_path / "split.csv", splits.paper(found, 0), found)
    given = ("--split", str(tmp_path / "split.csv"), "--calibrate", "validation", "--relevance", *FAST)
    assert run(checkpoint, found.path, tmp_path / "mixed", *given) == 0

    kinds = {path.suffix for path in (tmp_path / "mixed").rglob("*")}
    assert kinds >= {".html", ".json", ".csv", ".png", ".npz", ".safetensors"}
    assert without_label(tmp_path / "mixed") == []
    assert f"SHA-256 {found.digest[:12]}, {splits.LEAKY}." in model_card(
        describe(tmp_path / "mixed" / "small-calibrated.safetensors")
    )


def test_the_label_is_seen_in_a_figure(evaluated):
    found = metrics_of(evaluated)
    mixed, apart = (
        np.asarray(Image.open(io.BytesIO(plots.confusions(found, label)))) for label in (splits.LEAKY, "patients apart")
    )
    assert mixed.shape == apart.shape
    rows = np.flatnonzero((mixed != apart).any((1, 2)))
    assert rows.min() > 0.95 * len(mixed)  # below all else


@pytest.mark.usefixtures("quick")
def test_patients_are_called_apart_only_under_the_split_that_trained_the_model(folder, tmp_path, capsys):
    found = manifest.read(listing(folder, entries(PATIENTS), "taught.csv"))
    parts = np.array([[0, 2, 1, 2, 0, 1], [2, 0, 1, 2, 0, 1]], np.int8).repeat(3, axis=1)  # of the patients
    own, other = (
        splits.Split("patient", seed, np.arange(18, dtype=np.int32), each, found.digest)
        for seed, each in enumerate(parts)
    )
    path = untrained_checkpoint(
        tmp_path / "own.safetensors",
        preprocessing=(preprocessing(),),
        training_data=f"18 slices ({found.path.name}, SHA-256 {found.digest[:12]}).",
        training={"split": {"digest": own.digest, "label": own.label}},
    )
    for name, split in (("own", own), ("other", other)):
        splits.write(tmp_path / f"{name}.csv", split, found)
        assert run(path, found.path, tmp_path / name, "--split", str(tmp_path / f"{name}.csv")) == 0
    assert metrics_of(tmp_path / "own")["split"] == "patients apart"
    assert metrics_of(tmp_path / "other")["split"] == TAUGHT
    assert "patients apart" not in (tmp_path / "other" / "report.html").read_text()
    printed = [line for line in capsys.readouterr().out.splitlines() if ": " in line]
    assert [line.endswith(f"; {TAUGHT}") for line in printed] == [False] * 4 + [True] * 4


@pytest.mark.usefixtures("quick")
def test_a_split_that_training_wrote_says_which_rows_test(folder, checkpoint, tmp_path):
    found = manifest.read(listing(folder, entries(PATIENTS), "divided.csv"))
    parts = np.array([0, 2, 1, 2, 0, 1], np.int8).repeat(3)  # of the patients
    split = splits.Split("patient", 0, np.arange(18, dtype=np.int32), parts, found.digest)
    splits.write(tmp_path / "split.csv", split, found)

    assert run(checkpoint, found.path, tmp_path / "out", "--split", str(tmp_path / "split.csv")) == 0
    assert {row["path"][0] for row in rows_of(tmp_path / "out" / "predictions.csv")} == {"b", "d"}


@pytest.mark.usefixtures("quick")
def test_calibration_makes_a_new_checkpoint_and_is_used_at_once(folder, checkpoint, tmp_path):
    before = checkpoint.read_bytes()
    data = listing(folder, entries(PATIENTS), "validation.csv")

    assert run(checkpoint, data, tmp_path, "--calibrate", str(data)) == 0

    made = tmp_path / "small-calibrated.safetensors"
    old, new = describe(checkpoint).metadata, describe(made).metadata
    weights = zip(load(checkpoint)[0].state_dict().values(), load(made)[0].state_dict().values(), strict=True)
    rows = rows_of(tmp_path / "predictions.csv")
    node = [row["answer"] for row in rows]
    assert checkpoint.read_bytes() == before
    assert new.slice_thresholds != old.slice_thresholds
    assert new.training["calibrated_from"] == describe(checkpoint).digest
    assert all((a == b).all() for a, b in weights)
    assert node == [new.slice_thresholds.judge(float(row["probability"])) for row in rows]
    assert FITTED_HERE in (tmp_path / "report.html").read_text()
    fitted_on = f"were fitted on all rows of a manifest of SHA-256 {manifest.read(data).digest[:12]}"
    assert fitted_on in model_card(describe(made))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("fitted", "same"), [("validation", False), ("test", True), ("all", True)])
def test_thresholds_fitted_on_measured_patients_are_noted(folder, checkpoint, tmp_path, fitted, same):
    """And a checkpoint that only had its thresholds fitted on a manifest was not trained on it."""
    parts = {"a": "train", "b": "test", "c": "train", "d": "test", "e": "validation", "f": "validation"}
    rows = [row | {"split": parts[row["patient_id"]]} for row in entries([*PATIENTS[:5], ("f", "")])]
    data = listing(folder, rows, "parts.csv")

    assert run(checkpoint, data, tmp_path, "--calibrate", str(data) if fitted == "all" else fitted) == 0

    doubts = metrics_of(tmp_path)["doubts"]
    assert (FITTED_HERE in doubts) is same
    assert not any("trained on this very manifest" in doubt for doubt in doubts)


@pytest.mark.usefixtures("quick")
def test_a_checkpoint_that_knows_its_training_pictures_tells_how_these_differ(folder, checkpoint, tmp_path, capsys):
    data = listing(folder, entries(PATIENTS), "drift.csv")
    found = manifest.read(data)
    kept = drift.statistics(filed.load(found, splits.whole(found)))
    model, described = load(checkpoint)
    knowing = tmp_path / "knowing.safetensors"
    fields = {**described.metadata.__dict__, "statistics": kept}
    checkpoints.save(knowing, model.state_dict(), checkpoints.Metadata(**fields))
    darker = tmp_path / "darker"
    darker.mkdir()
    for row in entries(PATIENTS):
        with Image.open(folder / row["path"]) as image:
            image.point(lambda value: value * 0.6).save(darker / row["path"])

    assert run(knowing, data, tmp_path / "same") == 0
    assert run(knowing, listing(darker, entries(PATIENTS)), tmp_path / "other") == 0

    same = {row["what"]: row["verdict"] for row in rows_of(tmp_path / "same" / "drift.csv")}
    other = {row["what"]: row["verdict"] for row in rows_of(tmp_path / "other" / "drift.csv")}
    assert set(same.values()) == {"alike"}
    assert other["soft tissue, median"] == "far off"
    assert other["share of the picture that shows head"] == "alike"
    assert not any("differ from those" in doubt for doubt in metrics_of(tmp_path / "same")["doubts"])
    assert any(
        "differ from those that the model learned from: soft tissue, median (far off)" in doubt
        for doubt in metrics_of(tmp_path / "other")["doubts"]
    )
    assert "note: These pictures differ" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_an_id_that_two_sites_use_is_told(folder, checkpoint, tmp_path):
    rows = [row | {"site": "AB"[number % 2]} for number, row in enumerate(entries(PATIENTS))]
    assert run(checkpoint, listing(folder, rows, "two-sites.csv"), tmp_path) == 0
    expected = f"{len(PATIENTS)} patient ids stand at more than one site."
    assert any(doubt.startswith(expected) for doubt in metrics_of(tmp_path)["doubts"])


def test_what_training_made_of_slices_is_not_what_it_learned_from(folder):
    """Each changed slice is a series of its own: counted, they would make every manifest's series too long."""
    found = manifest.read(listing(folder, entries(PATIENTS), "changed.csv"))
    taken = filed.load(found, splits.whole(found))
    healed = dataclasses.replace(
        taken,
        series=np.arange(100, 100 + len(taken), dtype=np.int32),
        presence=np.zeros(len(taken), np.int8),
        origin=np.full(len(taken), ORIGINS.index("healed"), np.int8),
    )

    assert drift.statistics(stack([taken, healed])) == drift.statistics(taken)


@pytest.mark.usefixtures("quick")
def test_a_model_trained_on_this_very_manifest_is_said_to_be(folder, tmp_path, capsys):
    data = listing(folder, entries(PATIENTS), "trained.csv")
    digest = manifest.read(data).digest
    path = untrained_checkpoint(
        tmp_path / "own.safetensors", preprocessing=(preprocessing(),), training={"manifest": digest}
    )

    assert run(path, data, tmp_path / "out") == 0

    assert "was trained on this very manifest" in metrics_of(tmp_path / "out")["doubts"][0]
    assert "note: The model was trained on this very manifest." in capsys.readouterr().err


@pytest.mark.parametrize("labels", ["one class", "one class, the others unknown", "none"])
def test_thresholds_are_not_fitted_on_one_class(folder, checkpoint, tmp_path, capsys, labels):
    data = listing(folder, entries(PATIENTS), "both.csv")
    rows = entries([("c", "deep"), ("d", "lobar")])
    if labels != "one class":
        rows = [row if row["patient_id"] == "c" else row | {"ich": "", "location": ""} for row in rows]
    if labels == "none":
        rows = [{"path": row["path"], "patient_id": row["patient_id"]} for row in rows]
    one = listing(folder, rows, "one.csv")

    assert run(checkpoint, data, tmp_path, "--calibrate", str(one)) == 1
    assert "thresholds need both" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("classes", [("deep", "lobar", "subtentorial", "none")])
def test_a_fourth_location_is_dropped(folder, tmp_path, classes):
    path = untrained_checkpoint(
        tmp_path / "four.safetensors", preprocessing=(preprocessing(),), location_classes=classes
    )

    assert run(path, listing(folder, entries(PATIENTS), "four.csv"), tmp_path / "out") == 0

    for row in rows_of(tmp_path / "out" / "predictions.csv"):
        shares = [float(row[f"probability_{name}"]) for name in classes[:3]]
        assert sum(shares) == pytest.approx(1, abs=1e-4)


@pytest.mark.usefixtures("quick")
def test_an_encoder_without_attention_gets_a_gallery_without_maps(folder, tmp_path):
    path = untrained_checkpoint(tmp_path / "r.safetensors", preprocessing=(preprocessing(),), encoder="test_resnet")

    assert run(path, listing(folder, entries(PATIENTS), "resnet.csv"), tmp_path / "out") == 0

    assert "There are no relevance maps" in (tmp_path / "out" / "report.html").read_text()
    assert run(path, folder / "resnet.csv", tmp_path / "maps", "--relevance") == 1


def test_bad_input_is_reported_in_one_line_and_nothing_is_written(folder, checkpoint, tmp_path, capsys):
    data = listing(folder, entries(PATIENTS), "good.csv")
    (tmp_path / "file").write_text("no folder")
    elsewhere = untrained_checkpoint(tmp_path / "odd.safetensors")  # preprocessing of no known geometry
    lacking = [*entries(PATIENTS), entries(PATIENTS)[0] | {"path": "nowhere.png"}]
    gone = listing(folder, lacking, "gone.csv")
    (folder / "nowhere.png").unlink()
    for arguments, said in (
        ((tmp_path / "none.safetensors", data, tmp_path / "out"), "none.safetensors"),
        ((tmp_path, data, tmp_path / "out"), "cannot be read (Is a directory)"),
        ((checkpoint, tmp_path / "none.csv", tmp_path / "out"), "none.csv"),
        ((checkpoint, gone, tmp_path / "out"), "row 20, path: nowhere.png"),
        ((checkpoint, data, tmp_path / "file"), "cannot be written to"),
        ((checkpoint, data, tmp_path / "out", "--part", "test"), "does not say which rows are the test part"),
        ((checkpoint, data, tmp_path / "out", "--masks", "nothing"), "neither a folder nor a column"),
        ((checkpoint, data, tmp_path / "out", "--calibrate", "validation"), "validation part"),
        ((checkpoint, data, tmp_path / "out", "--calibrate", str(tmp_path / "v.csv")), "v.csv"),
        ((elsewhere, data, tmp_path / "out"), "geometry"),
        ((checkpoint, data, tmp_path / "out", "--device", "cuda:77"), "cuda:77"),
    ):
        assert run(*arguments) == 1
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("error: ") or "\n  row" in error
        assert said in error
        assert "Traceback" not in error
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_reported_and_the_old_figures_stay(folder, checkpoint, tmp_path, monkeypatch, capsys):
    data = listing(folder, entries(PATIENTS), "full.csv")
    (tmp_path / "metrics.json").write_bytes(before := b"figures of an earlier run")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert run(checkpoint, data, tmp_path) == 1

    assert "No space left" in capsys.readouterr().err
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_the_nodes_rule_for_a_series_stands_beside_others(evaluated):
    found = metrics_of(evaluated)
    rules = found["series_rules"]
    assert set(rules) == {row["rule"] for row in rows_of(evaluated / "series_rules.csv")}
    assert rules["two_neighbours"]["auc"] == pytest.approx(found["presence"]["patient"]["auc"], abs=1e-4)
    assert all(0 <= each["sensitivity"] <= 1 for each in rules.values())
    assert "How should slices decide on a series?" in (evaluated / "report.html").read_text()
