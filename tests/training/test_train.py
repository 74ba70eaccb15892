"""Training, on pictures of `drawn`: a disk for a head, a bright square for a bleed. Phantoms are made in two tests."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from drawn import drawn_as_made, drawn_head, failing, failing_once
from learning import REPOSITORY, SOURCE, batch_of, quiet, recipe, rows, settings
from learning import drawn as all_drawn
from safetensors.torch import load_file

from dtvit import preprocess
from dtvit.checkpoint import describe
from dtvit.inference import Classifier
from dtvit.model import DTViT
from train.dataset.pictures import freeze, load, part_of, read_shard, shard, write_shard
from train.errors import UnusableData
from train.learning.learner import Learner, choose_patches, loss
from train.learning.lessons import first_lessons
from train.learning.loop import fit
from train.learning.result import OPEN
from train.learning.start import start_well
from train.learning.state import UnusableRun
from train.making import synthetic
from train.run import run

NO_AUTOCAST = torch.autocast("cpu", enabled=False)


@pytest.fixture(scope="module")
def drawn():
    return all_drawn()


def test_training_finds_the_blood(tmp_path, drawn):
    path = fit(recipe(steps=60, evaluate_every=60, first_lessons=60), settings(tmp_path), drawn, SOURCE, quiet)

    test = drawn.of_part("test")
    classifier = Classifier.load(path, device="cpu")
    found = classifier.predict(test.pictures)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert found.presence[test.presence == 1].min() > found.presence[test.presence == 0].max()
    assert metrics["presence"]["slice"]["auc"] == metrics["presence"]["patient"]["auc"] == 1.0
    assert metrics == classifier.checkpoint.metadata.metrics


def test_a_run_leaves_checkpoint_metrics_log_and_card(tmp_path, drawn):
    path = fit(recipe(), settings(tmp_path), drawn, SOURCE, quiet)

    checkpoint = describe(path)
    card = (tmp_path / "MODEL-CARD.md").read_text()
    assert path.name == "drawn.safetensors"
    assert checkpoint.metadata.preprocessing == ("drawn-1",)
    assert checkpoint.metadata.patients_seen == "none"
    assert checkpoint.metadata.training["slices"] == {"train": 324, "validation": 18, "test": 18}
    assert [row["step"] for row in rows(tmp_path)] == ["4", "8"]
    assert checkpoint.digest in card
    assert "NOT FOR CLINICAL USE" in card
    assert "It has seen no patient" in card
    assert "Licence: for whoever trained it to choose.\n" in card


def test_a_killed_run_continues_as_if_nothing_had_happened(tmp_path, drawn):
    """Kill -9 in the middle of a real process; the weights are those of a run that was left alone."""
    data = tmp_path / "data"
    for number in range(60):
        write_shard(shard(data, number), drawn_head(number))
    versions = [preprocess.preprocessing(mode) for mode in ("paper", "robust")]
    source = {"phantom": synthetic.phantom_version(), "preprocessing": versions, "mode": "mixed", "seed": 0}
    freeze(data, range(60), source)

    given = settings(tmp_path / "killed", phantoms=data, save_every_s=0.0)
    small = recipe(steps=12, batch=8, name="dtvit-tiny-phantom", phantom_heads=60)
    changes = {"encoder": "test_vit", "batch": 8, "steps": 12, "evaluate_every": 4, "first_lessons": 10}
    command = [f"--set={key}={value}" for key, value in {**changes, "phantom_heads": 60}.items()]
    command += [
        "--output",
        str(given.output),
        "--phantoms",
        str(data),
        "--save-every-s=0",
        "--device=cpu",
        "--threads=1",
    ]
    killed = subprocess.Popen([sys.executable, "-m", "train", "fit", "--recipe", "phantom", *command], cwd=REPOSITORY)
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "metrics.json").exists()
    said = []
    run(small, given, said.append)
    assert any("continuing from step" in each for each in said)
    run(small, dataclasses.replace(given, output=tmp_path / "whole"), quiet)

    name = "dtvit-tiny-phantom.safetensors"
    mine, other = load_file(tmp_path / "killed" / name), load_file(tmp_path / "whole" / name)
    assert all(torch.equal(mine[key], other[key]) for key in other)
    assert (tmp_path / "killed" / "metrics.json").read_text() == (tmp_path / "whole" / "metrics.json").read_text()


def test_another_run_in_the_same_folder_is_refused(tmp_path, drawn):
    fit(recipe(), settings(tmp_path), drawn, SOURCE, quiet)
    with pytest.raises(UnusableRun, match=r"batch \(16, not 20\)"):
        fit(recipe(batch=20), settings(tmp_path), drawn, SOURCE, quiet)


def test_a_run_may_start_from_a_checkpoint(tmp_path, drawn):
    first = fit(recipe(seed=1, licence="CC-BY-4.0"), settings(tmp_path / "first"), drawn, SOURCE, quiet)
    more = recipe(steps=1, learning_rate=1e-9, start_from=str(first))
    second = fit(more, settings(tmp_path / "second"), drawn, SOURCE, quiet)

    before, after = load_file(first), load_file(second)
    assert all(torch.allclose(before[key].float(), after[key].float(), atol=1e-3) for key in before)
    found = describe(second).metadata
    from_where = f"started from drawn ({describe(first).digest[:12]})"
    assert found.training["start"] == from_where
    assert found.licence == f"{OPEN}; it {from_where}, whose licence is: CC-BY-4.0"
    assert describe(tmp_path / "second" / "last.safetensors").metadata.licence == found.licence


def test_a_licence_may_be_chosen_when_the_training_is_over(tmp_path, drawn):
    given = recipe(steps=1)
    before = load_file(fit(given, settings(tmp_path), drawn, SOURCE, quiet))
    path = fit(given.changed({"licence": "CC-BY-4.0"}), settings(tmp_path), drawn, SOURCE, quiet)

    assert all(torch.equal(value, before[key]) for key, value in load_file(path).items())
    assert describe(path).metadata.training["steps_done"] == 1
    assert "Licence: CC-BY-4.0.\n" in (tmp_path / "MODEL-CARD.md").read_text()


def test_location_is_not_taught_where_there_is_no_hemorrhage():
    presence, location = torch.randn(4, 2), torch.randn(4, 3, requires_grad=True)

    loss((presence, location, None), batch_of([0, 0, -1, 0], [-1] * 4), None, recipe()).backward()
    assert location.grad.abs().sum() == 0

    loss((presence, location, None), batch_of([0, 1, -1, 0], [-1, 2, -1, -1]), None, recipe()).backward()
    assert (location.grad.abs().sum(1) > 0).tolist() == [False, True, False, False]


def test_the_learner_sees_what_the_model_sees():
    learner = Learner(DTViT("test_vit")).eval()
    pictures = torch.rand(2, 1, 224, 224)
    turned = torch.arange(196).flip(0).expand(2, -1)

    plain = learner.model(((pictures - 0.5) / 0.5).expand(-1, 3, -1, -1))
    all_patches, other_order = learner(pictures), learner(pictures, turned)

    for mine, its, same in zip(plain, all_patches, other_order, strict=False):
        assert torch.allclose(mine, its, atol=1e-5)
        assert torch.allclose(mine, same, atol=1e-5)
    assert torch.allclose(all_patches[2], other_order[2].flip(1), atol=1e-5)


def test_no_patch_with_blood_is_left_out():
    torch.manual_seed(0)
    content = (torch.rand(8, 196) > 0.4).float()
    blood = (torch.rand(8, 196) > 0.9).float() * content

    kept = choose_patches(content, blood, 64)

    assert torch.equal(blood.gather(1, kept).sum(1), blood.sum(1))
    assert (content.gather(1, kept) > 0).all()  # there was enough of the head to need no background
    assert all(len(set(row.tolist())) == 64 for row in kept)


def test_an_encoder_without_patches_trains_too(tmp_path, drawn):
    fit(recipe(encoder="resnet18", steps=1, batch=4), settings(tmp_path), drawn, SOURCE, quiet)


def test_a_head_is_in_one_part_only(drawn):
    parts = {name: set(drawn.of_part(name).patient.tolist()) for name in ("train", "validation", "test")}

    assert set().union(*parts.values()) == set(range(60))
    assert sum(len(part) for part in parts.values()) == 60
    assert [part_of(number) for number in (0, 17, 18, 19, 38)] == [
        "train",
        "train",
        "validation",
        "test",
        "validation",
    ]


def test_missing_broken_and_one_sided_data_are_refused(tmp_path):
    with pytest.raises(UnusableData, match="no finished set"):
        load(tmp_path)
    for number in range(17):
        write_shard(shard(tmp_path, number), drawn_head(number))
    freeze(tmp_path, range(17), {})
    with pytest.raises(UnusableData, match="validation heads lack"):
        load(tmp_path)
    shard(tmp_path, 3).write_bytes(b"PK not really")
    with pytest.raises(UnusableData, match=r"head-000003\.npz"):
        load(tmp_path)


def test_synthetic_heads_come_in_pairs_that_only_blood_tells_apart(tmp_path):
    synthetic.make(tmp_path, 2, 11, "paper", quiet, processes=2)

    for number in (0, 1):
        made = read_shard(shard(tmp_path, number))
        with_bleed, without = made.take(made.series == 2 * number), made.take(made.series == 2 * number + 1)
        bleeding = with_bleed.take(with_bleed.blood.any((1, 2)))
        assert len(bleeding) == len(without) > 0
        assert (without.presence == 0).all()
        assert not without.blood.any()
        clear = bleeding.take(bleeding.presence == 1)
        assert set(clear.location.tolist()) <= {int(clear.location[0])} - {-1}
        assert (clear.area_mm2 >= synthetic.VISIBLE_MM2).all()
        # Where the label says blood, the picture is brighter than its pair; far from it the two are the same.
        for mine, its, map_ in zip(bleeding.pictures, without.pictures, bleeding.blood, strict=True):
            change = (mine.astype(int) - its).reshape(56, 4, 56, 4).mean((1, 3))
            if (map_ > 200).any():
                assert change[map_ > 200].mean() > 20
            assert np.median(np.abs(change)) < 1
    assert (tmp_path / "made.json").exists()


def test_validation_heads_are_whole_series():
    made = synthetic.make_head(18, 11, synthetic.Way("paper"))

    with_bleed, without = made.take(made.series == 36), made.take(made.series == 37)
    assert len(with_bleed) >= 15
    assert abs(len(with_bleed) - len(without)) <= 2
    assert (with_bleed.presence == 1).any()
    assert (without.presence == 0).all()


def test_pictures_made_differently_are_refused(tmp_path):
    freeze(tmp_path, [], {"phantom": "older", "preprocessing": "x", "mode": "paper", "seed": 0})
    with pytest.raises(UnusableData, match=r"phantom 'older'"):
        synthetic.make(tmp_path, 1, 0, "paper", quiet)


def test_heads_of_another_seed_are_refused_and_fewer_than_asked_for_are_reported(tmp_path):
    said = []
    synthetic.make(tmp_path, 20, 0, "paper", quiet, processes=1, maker=drawn_as_made)
    with pytest.raises(UnusableData, match=r"pictures made differently \(seed 0, not 1\)"):
        synthetic.make(tmp_path, 20, 1, "paper", quiet, maker=drawn_as_made)
    synthetic.make(tmp_path, 320, 0, "paper", said.append, maker=drawn_as_made)
    assert said == [f"{tmp_path} holds 20 finished heads, fewer than 320: name another folder for more"]


def test_phantoms_that_all_fail_end_the_run(tmp_path):
    with pytest.raises(UnusableData, match=r"phantoms fail: head \d+: RuntimeError: no place for bleed"):
        synthetic.make(tmp_path, 8, 0, "paper", quiet, processes=1, maker=failing)


def test_a_phantom_that_fails_does_not_stop_the_others(tmp_path):
    said = []
    synthetic.make(tmp_path, 24, 0, "mixed", said.append, processes=1, maker=failing_once)

    made = load(tmp_path)
    assert made[1]["preprocessing"] == [preprocess.preprocessing(mode) for mode in ("paper", "robust")]
    assert set(made[0].patient.tolist()) == set(range(24)) - {3}
    assert any("head 3" in each and "no place for bleed" in each for each in said)


def test_too_few_phantoms_in_the_time_given_are_reported_at_once_and_kept(tmp_path):
    """Before the patients' bleeds are traced for a quarter of an hour; and not as if the making were over."""
    made = []
    with pytest.raises(
        UnusableData, match=r"\d+ of 24 heads .*too few to validate and to test with.*--phantom-minutes"
    ):
        synthetic.make(tmp_path, 24, 0, "paper", quiet, processes=1, minutes=1e-6, maker=drawn_as_made)
    synthetic.make(tmp_path, 24, 0, "paper", made.append, processes=1, maker=drawn_as_made)

    assert not any(each.startswith("making 24 ") for each in made)
    assert set(load(tmp_path)[0].patient.tolist()) == set(range(24))


def test_first_lessons_tell_blood_in_a_patch_and_leave_the_whole_vit_with_what_they_learned(drawn):
    training = drawn.of_part("train")
    pictures, blood = torch.from_numpy(training.pictures), torch.from_numpy(training.blood)
    torch.manual_seed(0)
    learner = Learner(DTViT("test_vit"))
    start_well(learner.model.encoder)

    first_lessons(learner, pictures, blood, 60, NO_AUTOCAST)

    with torch.inference_mode():
        found = learner.eval()(pictures[:12, None].float() / 255)[2]
    shown = torch.nn.functional.adaptive_avg_pool2d(blood[:12, None].float(), (14, 14)).flatten(1)
    assert found[shown > 200].min() > found[shown == 0].max()


@pytest.mark.parametrize("encoder", ["resnet18", "vit_tiny_r_s16_p8_224"])
def test_first_lessons_pass_over_an_encoder_whose_tokens_are_not_patches(encoder):
    learner = Learner(DTViT(encoder))
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    blood = torch.zeros(2, 56, 56, dtype=torch.uint8)
    blood[:, :14, :14] = 255

    first_lessons(learner, torch.full((2, 224, 224), 99, dtype=torch.uint8), blood, 5, NO_AUTOCAST)

    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())


def test_brightness_and_place_survive_the_first_layer_normalisation():
    """From torch's own start two bright patches look alike to the first layer, and so do two places."""

    def spread(encoder):
        values = torch.tensor([0.6, 1.0])[:, None, None, None].expand(-1, 3, 224, 224)  # dense blood, bone
        with torch.inference_mode():
            tokens = encoder.blocks[0].norm1(encoder._pos_embed(encoder.patch_embed(values)))[:, 1:]
        return float((tokens[0] - tokens[1]).std()), float((tokens[0, 0] - tokens[0, 100]).std())

    torch.manual_seed(0)
    encoder = DTViT("vit_tiny_patch16_224").encoder
    before = spread(encoder)
    start_well(encoder)
    after = spread(encoder)

    assert after[0] > 2 * before[0]
    assert after[1] > 2 * before[1]
