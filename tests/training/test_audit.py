"""The audit of made-up models whose answer is known: it must tell who sees blood from who sees what goes with it."""

import dataclasses
import json
import re

import numpy as np
import pytest
from audited import SeesBlood, SeesNoise, SeesSilhouette, quiet, write_manifest
from PIL import Image
from untrained import untrained_checkpoint

from dtvit.preprocess import preprocessing
from train.audit.figures import Figure, Row, Section
from train.audit.healing import HEALERS
from train.audit.probes import PROBES
from train.audit.run import TAUGHT, Order, Sizes, audit
from train.audit.transplanting import BLENDERS
from train.audit.words import paragraph
from train.commands.audit import main
from train.dataset import manifest, splits
from train.errors import UnusableData

SIZES = Sizes(None, 3, 12, 18, 1, 1, 6)
SMALL = Sizes(6, 2, 4, 4, 1, 1, 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_manifest(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """A folder that the audits share, so that the phantoms are made once."""
    return tmp_path_factory.mktemp("audits")


@pytest.fixture(scope="module")
def blood(data, tmp_path_factory):
    """The audit of the model that sees blood, and its folder."""
    folder = tmp_path_factory.mktemp("blood")
    return found(SeesBlood(), data, folder), folder


def found(model, data, output, parts=("probes", "counterfactuals"), sizes=SIZES, **order):
    audit(model, Order(data, output, sizes, parts=parts, **order), quiet)
    return json.loads((output / "audit.json").read_text())


def test_a_model_that_sees_blood_passes(blood):
    said, _ = blood
    probes, turned = said["parts"]["probes"], said["parts"]["counterfactuals"]
    assert probes["untouched"]["slice_auc"] > 0.98
    assert all(
        abs(probes[name]["slice_auc"] - 0.5) < 0.1 for name in ("silhouette", "blanked", "blanked_noise", "noise")
    )
    for way in ("healed.membrane", "healed.patchwork", "transplanted.poisson", "transplanted.opaque"):
        kind, name = way.split(".")
        assert turned[kind][name]["flipped"] >= 0.9, way
        assert turned[kind][name]["sham_flipped"] == 0, way
        assert turned[kind][name]["flipped_slices"] >= 12, way
    assert all(turned["healed"][name]["vs_normal_auc"] < 0.6 for name in ("membrane", "patchwork"))
    assert all(goal["met"] for goal in said["goals"])
    doubtful = sum(not goal["beyond_doubt"] for goal in said["goals"])
    assert doubtful > 0  # of a dozen patients
    assert said["verdict"] == f"It looks at blood: every goal of the audit is met, {doubtful} of them not beyond doubt."
    assert said["words"][-1] == "All of this rests on 12 patients, so read the intervals before the sentences."


def test_a_model_that_sees_the_silhouette_is_found_out(data, tmp_path):
    said = found(SeesSilhouette(), data, tmp_path)

    probes, turned = said["parts"]["probes"], said["parts"]["counterfactuals"]
    assert probes["untouched"]["slice_auc"] > 0.98  # as good as the other, to whoever counts right answers
    assert all(probes[name]["slice_auc"] > 0.98 for name in ("silhouette", "blanked", "blanked_noise"))
    assert abs(probes["noise_alone"]["slice_auc"] - 0.5) < 0.01
    assert all(turned["healed"][name]["flipped"] == 0 for name in ("membrane", "patchwork"))
    assert all(turned["healed"][name]["vs_normal_auc"] > 0.98 for name in ("membrane", "patchwork"))
    assert all(turned["transplanted"][name]["flipped"] == 0 for name in ("poisson", "opaque"))
    assert said["verdict"].startswith("It does not go by blood")
    assert any("the head's silhouette" in sentence for sentence in said["words"])


def test_a_patient_who_bleeds_in_one_slice_is_not_normal(tmp_path):
    """Of seven slices three with equal gaps are taken, and the fifth is none of them."""
    data = write_manifest(tmp_path, patients=4, slices=7, only=4)
    said = found(SeesBlood(), data, tmp_path / "audit", ("probes",))["parts"]["probes"]

    assert said["counts"] == {
        "slices that show brain": 12,
        "of them with hemorrhage": 2,
        "left out for too little brain": 0,
    }
    assert said["untouched"]["patient_auc"] == said["untouched"]["slice_auc"] == 1.0
    assert said["untouched"]["patient_auc_ci"] == [pytest.approx(0.158, abs=1e-3), 1.0]  # two patients of each kind


def test_a_model_that_sees_noise_is_found_out(data, tmp_path):
    said = found(SeesNoise(), data, tmp_path)

    probes, turned = said["parts"]["probes"], said["parts"]["counterfactuals"]
    assert probes["untouched"]["slice_auc"] > 0.98
    assert all(probes[name]["slice_auc"] > 0.98 for name in ("blanked_noise", "noise", "noise_alone"))
    assert all(abs(probes[name]["slice_auc"] - 0.5) < 0.01 for name in ("silhouette", "blanked"))
    assert all(turned["healed"][name]["flipped"] < 0.1 for name in ("membrane", "patchwork"))
    assert all(turned["transplanted"][name]["flipped"] < 0.1 for name in ("poisson", "opaque"))
    assert said["verdict"].startswith("It does not go by blood")


def test_phantoms_tell_the_two_models_apart(data, phantoms):
    sizes = Sizes(6, 2, 4, 4, 3, 1, 4)
    blood, silhouette = (
        found(model, data, phantoms, ("phantoms",), sizes)["parts"]["phantoms"]
        for model in (SeesBlood(), SeesSilhouette())
    )
    assert blood["ranked_right"] > 0.6
    assert silhouette["ranked_right"] < 0.2
    assert silhouette["auc"] == pytest.approx(0.5, abs=0.1)
    assert blood["counts"]["slices with a look-alike"] >= 9
    assert len(blood["lookalikes"]) == 9
    assert {path.name for path in (phantoms / "pictures").glob("*.png")} >= {"phantoms.png", "lookalikes.png"}


def test_bleeds_are_implanted_where_nobody_bleeds(tmp_path, phantoms):
    data = write_manifest(tmp_path, patients=4, ill=False)
    sizes = Sizes(None, 3, 12, 18, 3, 1, 4)
    blood, silhouette = (
        found(model, data, tmp_path / type(model).__name__, ("implants",), sizes, heads=phantoms / "phantoms")
        for model in (SeesBlood(), SeesSilhouette())
    )
    for name in BLENDERS:
        seen, unseen = (each["parts"]["implants"]["bleeds"][name] for each in (blood, silhouette))
        assert seen["called"] >= 0.7
        assert seen["called_slices"] >= 12
        assert seen["auc"] > 0.8
        assert seen["sham_called"] == 0
        assert unseen["called"] == unseen["sham_called"]
        assert unseen["auc"] == pytest.approx(0.5, abs=0.05)
    assert blood["parts"]["implants"]["untouched"]["false_alarms"] == 0
    assert len(blood["parts"]["implants"]["lookalikes"]) == 9
    assert any("implanted" in sentence for sentence in blood["words"])
    assert {path.name for path in (tmp_path / "SeesBlood" / "pictures").iterdir()} == {
        "implanted-bleeds.png",
        "implanted-lookalikes.png",
    }


def test_parts_that_need_bleeding_patients_say_so(tmp_path):
    with pytest.raises(UnusableData, match="only 0 occurs"):
        found(SeesBlood(), write_manifest(tmp_path, patients=2, ill=False), tmp_path, ("probes", "implants"))


def test_the_map_of_a_model_that_sees_blood_falls_on_it(data, phantoms):
    point = found(SeesBlood(), data, phantoms, ("pointing",))["parts"]["pointing"]["patients"]
    assert point["hits"] == 1
    assert point["hits_by_chance"] < 0.4
    assert point["relevance_inside"] > 3 * point["area"]


def test_a_model_without_maps_is_audited_without_them(data, phantoms):
    said = found(SeesNoise(), data, phantoms, ("pointing",))
    assert list(said["parts"]["pointing"]) == ["counts"]
    assert "a rule has no attention" in (phantoms / "audit.html").read_text()


def test_the_effect_of_a_change_is_reported_by_its_kind(data, tmp_path):
    silhouette, noise = (
        found(model, data, tmp_path, ("stability",))["parts"]["stability"] for model in (SeesSilhouette(), SeesNoise())
    )
    assert silhouette["scale"]["3"]["flipped"] > 0.2
    assert silhouette["noise"]["3"]["flipped"] == silhouette["flip"]["3"]["change"] == 0
    assert noise["noise"]["3"]["flipped"] > 0.3
    assert noise["shift"]["1"]["flipped"] == 0


def test_the_same_seed_gives_the_same_audit(data, tmp_path):
    first, again, other = (
        found(SeesBlood(), data, tmp_path / name, ("probes", "counterfactuals"), SMALL, seed=seed)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert (tmp_path / "a" / "audit.json").read_bytes() == (tmp_path / "b" / "audit.json").read_bytes()
    assert first == again != other


def test_the_page_needs_nothing_beside_it(blood):
    said, folder = blood
    page = (folder / "audit.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert set(re.findall(r'(?:src|href)="([^,"]*)', page)) == {"data:image/png;base64"}
    assert said["verdict"] in page
    assert "P01" not in re.sub('base64,[^"]*', "", page)  # no patient


def in_parts(path, part_of):
    """The manifest with a column split, by the number of the patient."""
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{header},split", *(f"{row},{part_of(int(row[:2]))}" for row in rows)]))
    return path


def test_only_the_test_part_is_audited(tmp_path):
    path = in_parts(write_manifest(tmp_path, patients=6, slices=2), lambda patient: "test" if patient < 4 else "train")
    said = found(SeesBlood(), path, tmp_path / "out", ("probes",), SMALL)
    assert said["parts"]["probes"]["counts"] == {
        "slices that show brain": 8,
        "of them with hemorrhage": 4,
        "left out for too little brain": 0,
    }


@pytest.mark.parametrize(("split", "told"), [(None, True), ("its own", False), ("another", True), ("leaky", True)])
def test_an_audit_on_what_the_model_was_trained_on_says_so(tmp_path, split, told):
    listed = manifest.read(write_manifest(tmp_path, patients=12, slices=2))
    its_own = splits.paper(listed, 0) if split == "leaky" else splits.by_patient(listed, 0)
    audited = splits.by_patient(listed, 1) if split == "another" else its_own
    model = SeesBlood()
    training = {"split": {"kind": "patient", "digest": its_own.digest}, "manifest": listed.digest}
    learned = dataclasses.replace(model.checkpoint.metadata, training=training)
    model.checkpoint = dataclasses.replace(model.checkpoint, metadata=learned)
    if split is not None:
        splits.write(tmp_path / "split.csv", audited, listed)
    order = {} if split is None else {"split": tmp_path / "split.csv"}

    said = found(model, listed.path, tmp_path / "out", ("probes",), SMALL, **order)
    assert (TAUGHT in said["words"]) is told
    assert (f"{splits.LEAKY.capitalize()}." in said["words"]) is (split == "leaky")


def test_kinds_told_apart_the_wrong_way_round_are_reported():
    def figures(least, healed):
        rows = {f"{name}.slice_auc": 0.5 for name in PROBES} | {
            "blanked.slice_auc": least,
            "untouched.patient_auc": 0.9,
        }
        changed = {
            f"healed.{name}.{key}": value
            for name in HEALERS
            for key, value in (("flipped", 0.9), ("sham_flipped", 0.0), ("vs_normal_auc", healed))
        }
        return [
            Section(part, "", "", tuple(Row(key, "", Figure(value, value, value, 9, 9)) for key, value in some.items()))
            for part, some in (("probes", rows), ("counterfactuals", changed))
        ]

    said = " ".join(paragraph(figures(0.1, 0.2)))
    assert "Shown only the skull around one flat grey, normals score higher than bleeding patients (AUC 0.10)" in said
    assert "cannot tell them apart" not in said
    assert "Healed, they score lower than normals (AUC 0.20)." in said
    alike = " ".join(paragraph(figures(0.45, 0.5)))
    assert "Without blood it cannot tell them apart: the highest AUC of any probe is 0.50" in alike
    assert "wrong way round" not in alike


def test_a_test_part_of_one_kind_is_refused(tmp_path):
    path = in_parts(write_manifest(tmp_path, patients=4, slices=2), lambda patient: "test" if patient % 2 else "train")
    with pytest.raises(UnusableData, match=r"needs slices without hemorrhage \(ich 0\) in its test part"):
        found(SeesBlood(), path, tmp_path / "out", ("probes",), SMALL)


@pytest.fixture
def checkpoint(tmp_path):
    return untrained_checkpoint(tmp_path / "model.safetensors", preprocessing=(preprocessing("robust"),))


def test_the_command_leaves_page_figures_and_pictures(checkpoint, data, tmp_path, capsys):
    output = tmp_path / "out"
    options = ["--quick", "--patients", "6", "--only", "probes", "--only", "counterfactuals", "--device", "cpu"]
    assert main([str(checkpoint), "--data", str(data), "--output", str(output), *options], "audit") == 0

    assert capsys.readouterr().out.strip() == str(output / "audit.html")
    said = json.loads((output / "audit.json").read_text())
    assert said["sizes"]["patients"] == 6
    assert list(said["parts"]) == ["probes", "counterfactuals"]
    assert np.isfinite(said["parts"]["probes"]["untouched"]["slice_auc"])


def refused(capsys, *arguments):
    assert main([str(each) for each in arguments], "audit") == 1
    return capsys.readouterr().err


def test_bad_input_is_named(checkpoint, data, tmp_path, capsys):
    to = ["--output", tmp_path / "out", "--quick", "--only", "probes"]
    assert "gone.safetensors: cannot be read" in refused(capsys, tmp_path / "gone.safetensors", "--data", data, *to)
    assert "gone.csv cannot be read" in refused(capsys, checkpoint, "--data", tmp_path / "gone.csv", *to)
    other = untrained_checkpoint(tmp_path / "other.safetensors", preprocessing=("of another program",))
    assert "was trained for preprocessing of another program" in refused(capsys, other, "--data", data, *to)
    lonely = write_manifest(tmp_path, patients=1)
    assert "there is nothing to tell apart" in refused(capsys, checkpoint, "--data", lonely, *to)
    assert not (tmp_path / "out").exists()


def test_a_damaged_picture_is_named_by_its_row(checkpoint, tmp_path, capsys):
    path = write_manifest(tmp_path, patients=4, slices=2)
    damaged = tmp_path / "01-1.png"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    said = refused(capsys, checkpoint, "--data", path, "--output", tmp_path / "out", "--quick", "--only", "probes")
    assert "row 5, path: 01-1.png is damaged or cut off" in said


def test_pictures_of_something_else_are_refused(tmp_path):
    path = write_manifest(tmp_path, patients=4, slices=1)
    for picture in tmp_path.glob("*.png"):
        Image.fromarray(np.full((256, 256), 90, np.uint8)).save(picture)
    with pytest.raises(UnusableData, match="none of the 4 slices shows brain"):
        found(SeesBlood(), path, tmp_path / "out", sizes=SMALL)


def test_an_output_that_is_a_file_is_refused(checkpoint, data, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    said = refused(capsys, checkpoint, "--data", data, "--output", tmp_path / "out", "--quick", "--patients", "4")
    assert "out" in said
    assert "error:" in said


@pytest.mark.parametrize("wrong", [["--only", "nothing"], ["--patients", "0"], ["--patients", "few"], []])
def test_a_wrong_option_is_an_error_of_the_command_line(wrong, data, tmp_path, capsys):
    given = ["--data", str(data), "--output", str(tmp_path)] if wrong else ["--data", str(data)]
    with pytest.raises(SystemExit) as ended:
        main(["model.safetensors", *given, *wrong], "audit")
    assert ended.value.code == 2
    assert "usage: audit" in capsys.readouterr().err
