"""The loop's promises: nothing lost, the same numbers whichever way they are computed, and clear ends."""

import dataclasses
import io
import itertools
import math
import re
import resource
import sys
import time

import numpy as np
import pytest
import timm
import torch
from labelled import without_label
from learning import (
    PLAIN,
    SOURCE,
    Stopped,
    bare,
    drawn,
    filed_heads,
    losses,
    quiet,
    ran,
    recipe,
    rows,
    settings,
    stopping_at,
)
from PIL import Image
from safetensors.torch import load_file, save_file

from dtvit.checkpoint import describe
from dtvit.model import DTViT
from train.dataset.splits import LEAKY
from train.errors import UnusableData
from train.learning import computing, lessons, looking, result, state
from train.learning.gathering import gather
from train.learning.learner import Learner
from train.learning.loop import Run, fit, seed_of
from train.learning.optimiser import Average, factor, optimiser, set_rate
from train.learning.pretrained import UnavailableWeights
from train.learning.ranks import Ranks
from train.learning.state import UnusableRun
from train.options import Settings
from train.progress import Bar
from train.recipe import UnusableRecipe, read
from train.run import check, divided, run


@pytest.fixture(scope="module")
def data():
    return drawn(40)


def same_weights(first, second):
    mine, other = load_file(first), load_file(second)
    return mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in other)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "optimiser": "sgd",
            "learning_rate": 0.01,
            "sampling": "plain",
            "steps": 0,
            "epochs": 0.4,
            "augmentation": "paper",
            "drop_path": 0.2,
            "precision": "fp16",
            "accumulation": 2,
            "ema": 0.0,
        },
    ],
    ids=["adamw-ema-shares-tokens", "sgd-epochs-fp16-accumulated"],
)
def test_a_stopped_run_continues_bit_for_bit(tmp_path, data, changes):
    given = recipe(**{"evaluate_every": 3, **changes})
    with pytest.raises(Stopped):
        fit(given, settings(tmp_path / "stopped", save_every_s=0), data, SOURCE, stopping_at(6))
    said = []
    fit(given, settings(tmp_path / "stopped"), data, SOURCE, said.append)
    fit(given, settings(tmp_path / "whole"), data, SOURCE, quiet)

    assert "continuing from step 5" in said
    for name in ("drawn", "best", "last"):
        assert same_weights(tmp_path / "stopped" / f"{name}.safetensors", tmp_path / "whole" / f"{name}.safetensors")
    mine, other = (state.read(tmp_path / name / "state.pt", torch.device("cpu")) for name in ("stopped", "whole"))
    for key in ("learner", "average", "optimiser", "scaler", "step", "best", "worse", "recent"):
        torch.testing.assert_close(mine[key], other[key], rtol=0, atol=0)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.mark.parametrize("key", ["pretrained", "start_from"])
def test_a_run_continues_without_the_weights_it_began_with(tmp_path, monkeypatch, key):
    """They may be gone, but not be others; the checkpoint tells of them as it would have."""
    plain = recipe(**PLAIN, phantom_heads=0, split="given", steps=4, evaluate_every=4)
    given = settings(tmp_path / "run", data=filed_heads(tmp_path / "heads"), save_every_s=0)
    if key == "pretrained":
        weights = tmp_path / "weights.pth"
        torch.save(timm.create_model("test_vit").state_dict(), weights)
    else:
        weights = run(plain.changed({"steps": "1"}), dataclasses.replace(given, output=tmp_path / "before"), quiet)
    begun = plain.changed({key: str(weights)})
    whole = describe(run(begun, dataclasses.replace(given, output=tmp_path / "whole"), quiet)).metadata
    stepped = Run.take_step

    def stopping(self, done):
        if self.step == 2:
            raise Stopped
        return stepped(self, done)

    monkeypatch.setattr(Run, "take_step", stopping)
    with pytest.raises(Stopped):
        run(begun, given, quiet)
    monkeypatch.setattr(Run, "take_step", stepped)
    weights.unlink()

    with pytest.raises(UnusableRun, match=rf"another {key} \({weights.name}, not other\.pth\)"):
        run(plain.changed({key: str(tmp_path / "other.pth")}), given, quiet)
    said = []
    ended = describe(run(begun, given, said.append)).metadata
    assert "continuing from step 2" in said
    assert (ended.training["start"], ended.licence) == (whole.training["start"], whole.licence)
    assert weights.name in ended.licence or "started from drawn (" in ended.licence
    assert ended.training["recipe"] == whole.training["recipe"]
    assert same_weights(tmp_path / "run" / "drawn.safetensors", tmp_path / "whole" / "drawn.safetensors")


@pytest.mark.parametrize("key", ["pretrained", "start_from"])
def test_first_lessons_leave_alone_what_a_run_starts_with(tmp_path, data, key):
    """They silence attention, which only random weights can do without."""
    weights = tmp_path / "weights.safetensors"
    if key == "pretrained":
        save_file(timm.create_model("test_vit").state_dict(), weights)
    else:
        weights = fit(recipe(steps=1), settings(tmp_path / "before"), data, SOURCE, quiet)
    given, said = recipe(**{key: str(weights)}), []
    begun = Run(given, settings(tmp_path / "run"), data, SOURCE, said.append, Ranks())
    before = {name: value.clone() for name, value in begun.learner.state_dict().items()}

    begun.begin()

    assert all(torch.equal(value, before[name]) for name, value in begun.learner.state_dict().items())
    assert f"no first lessons: {begun.start.told}, and they are for random weights" in said


def test_a_run_begun_by_an_older_version_needs_its_weights(tmp_path, data):
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_vit").state_dict(), weights)
    given = recipe(steps=1, pretrained=str(weights))
    path = fit(given, settings(tmp_path), data, SOURCE, quiet)
    older = state.read(tmp_path / "state.pt", torch.device("cpu"))
    del older["start"]
    state.save(tmp_path / "state.pt", older)

    fit(given, settings(tmp_path), data, SOURCE, quiet)
    assert describe(path).metadata.training["start"] == "weights of weights.pth"
    weights.unlink()
    with pytest.raises(UnavailableWeights, match=r"weights\.pth gives no weights"):
        fit(given, settings(tmp_path), data, SOURCE, quiet)


def test_a_run_builds_its_encoder_once_whenever_it_is_called(tmp_path, monkeypatch):
    made = []

    def counted(*args, **keywords):
        made.append(args[0])
        return DTViT(*args, **keywords)

    monkeypatch.setattr("train.learning.pretrained.DTViT", counted)
    given = settings(tmp_path / "run", data=filed_heads(tmp_path / "heads"))
    for _ in range(2):
        run(recipe(**PLAIN, phantom_heads=0, split="given", steps=1), given, quiet)
        assert made == ["test_vit"]
        made.clear()


@pytest.fixture
def small_disk():
    """Files can be no longer than so many bytes, as on a full disk; until the end of the test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(to):
        resource.setrlimit(resource.RLIMIT_FSIZE, (to, before[1]))

    yield limited
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_previous_state_intact(tmp_path, small_disk):
    path = tmp_path / "state.pt"
    state.save(path, {"step": 1, "weights": torch.ones(10_000)})
    before = path.read_bytes()
    small_disk(5000)
    with pytest.raises(
        UnusableRun,
        match=r"state\.pt cannot be saved \(.*too large\).*make room, and the same command continues from there",
    ):
        state.save(path, {"step": 2, "weights": torch.ones(100_000)})
    small_disk(-1)  # before pytest itself writes on: its output may be a longer file
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["state.pt"]


def test_a_folder_on_a_full_disk_is_refused_and_nothing_begun(tmp_path, small_disk):
    small_disk(1000)
    with (
        pytest.raises(UnusableRun, match=r"run cannot be written to \(File too large\); make room"),
        state.claimed(tmp_path / "run"),
    ):
        pass
    small_disk(-1)


def test_a_run_whose_disk_was_full_continues_when_there_is_room(tmp_path, data, small_disk):
    given = recipe(steps=6, evaluate_every=2)

    def filling(text):
        if text.startswith("step 4,"):
            small_disk(100_000)

    with pytest.raises(UnusableRun, match=r"cannot be (saved|written to).*make room"):
        fit(given, settings(tmp_path / "full"), data, SOURCE, filling)
    small_disk(-1)
    assert describe(tmp_path / "full" / "best.safetensors").metadata.training["step"] == 2
    fit(given, settings(tmp_path / "full"), data, SOURCE, quiet)
    fit(given, settings(tmp_path / "whole"), data, SOURCE, quiet)
    assert same_weights(tmp_path / "full" / "drawn.safetensors", tmp_path / "whole" / "drawn.safetensors")


@pytest.mark.parametrize(
    "changes",
    [{"accumulation": 4}, {"checkpointing": True}, {"checkpointing": True, "blood_loss": 0.0}, {"ema": 0.9}],
    ids=str,
)
def test_what_saves_memory_or_averages_changes_no_loss(tmp_path, data, changes):
    plain = {**PLAIN, "steps": 3, "evaluate_every": 1}
    if "blood_loss" in changes:
        plain["blood_loss"] = 0.0
    fit(recipe(**plain), settings(tmp_path / "plain"), data, SOURCE, quiet)
    fit(recipe(**{**plain, **changes}), settings(tmp_path / "other"), data, SOURCE, quiet)
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), abs=2e-5)


@pytest.mark.parametrize("fast", [True, False])
def test_auto_trains_in_bf16_only_where_the_gpu_computes_it_itself(fast, monkeypatch):
    """Older ones emulate it, and are slower for it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: fast or including_emulation)
    assert computing.precision("auto", torch.device("cuda")) == ("bf16" if fast else "fp32")


def test_half_precision_learns_what_full_precision_learns(tmp_path, data):
    for name in ("fp32", "bf16", "fp16"):
        given = recipe(**{**PLAIN, "steps": 3, "evaluate_every": 1, "precision": name, "learning_rate": 1e-5})
        fit(given, settings(tmp_path / name), data, SOURCE, quiet)
    for name in ("bf16", "fp16"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "fp32"), rel=0.03)


def test_two_ranks_have_the_loss_of_one(tmp_path):
    """Labels are so few that the ranks hold different numbers of them: each loss is over the whole batch's count."""
    listed = filed_heads(tmp_path / "pictures")
    own = tmp_path / "own.toml"
    keys = {**PLAIN, "encoder": "test_vit", "steps": 4, "evaluate_every": 1, "batch": 8, "split": "given", "clip": 1.0}
    own.write_text("\n".join(f"{key} = {value!r}" for key, value in keys.items()).replace("'", '"'))

    two = ran("--recipe", str(own), "--data", str(listed), "--output", str(tmp_path / "two"), ranks=2)
    assert two.returncode == 0, two.stderr
    run(read(str(own)), Settings(output=tmp_path / "one", data=listed, device="cpu", threads=1), quiet)

    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert describe(tmp_path / "two" / "own.safetensors").metadata.training["ranks"] == 2
    mine, other = (load_file(tmp_path / name / "own.safetensors") for name in ("two", "one"))
    assert all(torch.allclose(mine[key].float(), other[key].float(), atol=2e-3) for key in other)


def test_ranks_that_lose_the_first_leave_its_error_readable(tmp_path):
    (tmp_path / "manifest.csv").write_text("path,patient_id,ich\ngone.png,a,1\n")
    ended = ran("--recipe=v1", f"--data={tmp_path / 'manifest.csv'}", f"--output={tmp_path / 'run'}", ranks=2)
    assert ended.returncode != 0
    assert "row 2, path: gone.png is not there" in ended.stderr
    assert "[rank1]: Traceback" not in ended.stderr


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path, data):
    with pytest.raises(UnusableRecipe, match="batch of 16 cannot be shared by 3 ranks"):
        fit(recipe(), settings(tmp_path), data, SOURCE, quiet, Ranks(0, 3))


def test_a_manifest_trains_on_a_machine_with_nothing_but_torch(tmp_path):
    listed = filed_heads(tmp_path / "pictures")
    given = ["fit", "--recipe", "v1", "--data", str(listed), "--output", str(tmp_path / "run"), "--split", "paper"]
    given += ["--encoder", "test_vit", "--pretrained", "none", "--device", "cpu", "--threads", "1"]
    given += ["--set", "epochs=0.1", "--set", "validation_slices=20"]
    ended = bare(*given)

    assert ended.returncode == 0, ended.stderr
    assert "no TensorBoard" in ended.stderr
    found = describe(tmp_path / "run" / "dtvit-v1.safetensors").metadata
    assert found.location_classes == ("deep", "lobar", "subtentorial", "none")
    assert found.mean == (0.485, 0.456, 0.406)
    assert found.training["start"] == "from scratch"
    assert found.training["recipe"]["optimiser"] == "sgd"
    assert found.training["split"]["kind"] == "paper"
    assert len(found.training["split"]["digest"]) == 64
    mixed = found.training["split"]["label"]
    assert "same patients" in mixed
    assert found.metrics["split"] == mixed
    assert rows(tmp_path / "run")[0]["split"] == mixed
    assert f"Of no use for patients: {mixed}" in (tmp_path / "run" / "MODEL-CARD.md").read_text()
    assert (tmp_path / "run" / "split.csv").exists()


def test_a_picture_of_two_patients_of_whom_one_trains_and_the_other_tests_is_told(tmp_path):
    listed, said = filed_heads(tmp_path), []
    given = recipe(**PLAIN, phantom_heads=0, split="given")
    machine = settings(tmp_path / "run", data=listed)
    _, source = gather(given, machine, divided(given, machine), said.append)
    assert "also" not in source.training_data

    (tmp_path / "12-0.png").write_bytes((tmp_path / "0-0.png").read_bytes())  # validates; trains
    (tmp_path / "19-1.png").write_bytes((tmp_path / "1-1.png").read_bytes())  # tests; trains
    for number in (2, 18):
        Image.new("L", (64, 64)).save(tmp_path / f"{number}-2.png")  # nothing is alike in everyone
    _, source = gather(given, machine, divided(given, machine), said.append)
    assert "2 pictures that validate or test are also pictures of patients who train" in source.training_data
    assert sum("one person under two ids" in text for text in said) == 1


def test_whatever_a_run_on_the_papers_split_leaves_carries_its_label(tmp_path):
    listed, said = filed_heads(tmp_path / "pictures"), []
    changes = {
        "split": "paper",
        "encoder": "test_vit",
        "pretrained": "none",
        "epochs": "0.1",
        "validation_slices": "20",
    }
    run(read("v1").changed(changes), settings(tmp_path / "run", data=listed), said.append)
    assert {path.suffix for path in (tmp_path / "run").iterdir()} >= {".csv", ".json", ".md", ".npz", ".pt"}
    assert without_label(tmp_path / "run") == []
    assert [LEAKY in text for text in said if "AUC" in text or "auc" in text] == [True, True]


def test_every_look_is_in_log_and_tensorboard(tmp_path, data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(recipe(evaluate_every=2), settings(tmp_path), data, SOURCE, quiet)

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    told = [event.value for event in events.Scalars("validation_loss")]
    assert [int(row["step"]) for row in rows(tmp_path)] == [2, 4, 6, 8]
    assert told == pytest.approx([float(row["validation_loss"]) for row in rows(tmp_path)])


def test_a_run_that_does_not_improve_ends_early(tmp_path, data):
    said = []
    given = recipe(**{**PLAIN, "steps": 50, "evaluate_every": 1, "patience": 2, "learning_rate": 1e-30, "ema": 0.0})
    fit(given, settings(tmp_path), data, SOURCE, said.append)
    assert any("no improvement for 2 looks; the run ends at step 3" in text for text in said)
    assert describe(tmp_path / "drawn.safetensors").metadata.training["chosen_step"] == 1


@pytest.mark.parametrize(("choose", "step"), [("best", 1), ("last", 3)])
def test_the_result_is_the_best_or_the_last(tmp_path, data, choose, step):
    given = recipe(**{**PLAIN, "steps": 3, "evaluate_every": 1, "learning_rate": 1e-30, "ema": 0.0, "choose": choose})
    path = fit(given, settings(tmp_path), data, SOURCE, quiet)
    assert describe(path).metadata.training["chosen_step"] == step


def test_a_training_that_diverges_says_so(tmp_path, data):
    with pytest.raises(UnusableRun, match=r"at step \d+ .*diverged.*lower learning_rate"):
        fit(recipe(**{**PLAIN, "learning_rate": 1e30, "clip": 0.0}), settings(tmp_path), data, SOURCE, quiet)


def test_weights_too_large_to_be_stored_are_a_training_that_diverged(tmp_path, data, monkeypatch):
    """A checkpoint holds float16: what grows beyond 65,504 gives finite numbers in the look and cannot be kept."""
    kept = result.keep

    def grown(path, recipe, source, start, weights, step):
        kept(path, recipe, source, start, {name: 1e6 + weight for name, weight in weights.items()}, step)

    monkeypatch.setattr(result, "keep", grown)
    with pytest.raises(UnusableRun, match=r"best\.safetensors .*diverged.*lower learning_rate"):
        fit(recipe(), settings(tmp_path), data, SOURCE, quiet)


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path):
    again = state.claimed(tmp_path / "run")
    with state.claimed(tmp_path / "run"), pytest.raises(UnusableRun, match="another process is training"):
        again.__enter__()
    with state.claimed(tmp_path / "run"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UnusableRun, match=r"file cannot be written to.*--output"), state.claimed(tmp_path / "file"):
        pass


def test_files_left_half_written_by_a_killed_run_are_removed(tmp_path):
    kept = {"state.pt", "best.safetensors", ".phantoms.turn", "notes.safetensors.txt"}
    for name in (*kept, ".state.pt.q1w2e3r4", ".best.safetensors.a_b1c2d3"):
        (tmp_path / name).write_bytes(b"")
    with state.claimed(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "run.lock"}


def test_a_damaged_state_is_refused(tmp_path, data):
    (tmp_path / "state.pt").write_bytes(b"PK not really")
    with pytest.raises(UnusableRun, match=r"state\.pt cannot be read .*remove it to begin again"):
        fit(recipe(), settings(tmp_path), data, SOURCE, quiet)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda saved: [saved], r"state\.pt cannot be read \(not the state of a run\)"),
        (lambda saved: {key: value for key, value in saved.items() if key != "run"}, "not the state of a run"),
        (lambda saved: {key: value for key, value in saved.items() if key != "scaler"}, "by another version .*scaler"),
        (lambda saved: saved | {"learner": {}}, "by another version .*Missing key.* continue with that one"),
    ],
)
def test_a_state_saved_by_another_version_is_refused(tmp_path, data, other, said):
    fit(recipe(steps=1), settings(tmp_path), data, SOURCE, quiet)
    saved = torch.load(tmp_path / "state.pt")
    torch.save(other(saved), tmp_path / "state.pt")
    with pytest.raises(UnusableRun, match=f"(?s){said}"):
        fit(recipe(steps=1), settings(tmp_path), data, SOURCE, quiet)


def test_a_run_does_not_continue_with_changed_pictures(tmp_path):
    given = settings(tmp_path / "run", data=filed_heads(tmp_path / "heads"))
    plain = recipe(**PLAIN, phantom_heads=0, split="given", steps=1)
    run(plain, given, quiet)
    run(plain, given, quiet)
    picture = next(each for each in sorted((tmp_path / "heads").rglob("*.png")))
    with Image.open(picture) as image:
        image.point(lambda value: value // 2).save(picture)
    with pytest.raises(UnusableRun, match="with the same manifest and other pictures"):
        run(plain, given, quiet)


def test_other_data_are_another_run(tmp_path, data):
    fit(recipe(steps=1), settings(tmp_path), data, SOURCE, quiet)
    with pytest.raises(UnusableRun, match="with another data"):
        fit(recipe(steps=1), settings(tmp_path), data, dataclasses.replace(SOURCE, digest="other"), quiet)


def test_a_run_from_before_a_key_existed_continues(tmp_path, data):
    given = recipe(steps=2, evaluate_every=1)
    with pytest.raises(Stopped):
        fit(given, settings(tmp_path), data, SOURCE, stopping_at(2))
    older = state.read(tmp_path / "state.pt", torch.device("cpu"))
    del older["run"]["judged_by"]
    older["rows"][0]["a figure of then"] = older["rows"][0].pop("location_balanced")
    state.save(tmp_path / "state.pt", older)
    said = []
    fit(given, settings(tmp_path), data, SOURCE, said.append)
    assert "continuing from step 1" in said
    first, second = rows(tmp_path)
    told = [[bool(row[name]) for name in ("a figure of then", "location_balanced")] for row in (first, second)]
    assert told == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (lambda each: each.part != 0, "no train rows"),
        (lambda each: each.part != 1, "no validation rows"),
        (lambda each: each.presence == 1, "no train slice without hemorrhage"),
        (lambda each: (each.presence == 0) | (each.part == 0), "no validation slice with hemorrhage"),
    ],
)
def test_data_that_cannot_teach_are_refused_before_training(data, kept, said):
    with pytest.raises(UnusableData, match=said):
        check(recipe(), data.take(kept(data)), SOURCE)


def test_shares_that_leave_a_class_out_are_refused(data):
    with pytest.raises(UnusableData, match="leaves out every healthy slice"):
        check(recipe(shares={"phantom_bleeding": 1.0}), data, SOURCE)
    with pytest.raises(UnusableData, match=r"\[replication\] .* leaves out every healthy slice"):
        check(recipe(sampling="replicate", replication={"normal": 0}), data, SOURCE)


def test_only_the_named_origin_validates_and_tests(tmp_path):
    listed = filed_heads(tmp_path / "pictures")
    given, machine = recipe(phantom_heads=0, split="given", judged_by="phantom"), settings(tmp_path, data=listed)
    pictures, _ = gather(given, machine, divided(given, machine), quiet)
    assert set(pictures.part.tolist()) == {0}


def test_the_command_reports_errors_in_one_line(tmp_path):
    ended = ran("--recipe", "v1", "--pretrained", "none", "--data", str(tmp_path / "no.csv"), "--output", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: ")
    assert "no.csv" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_learning_rates_follow_the_schedule():
    given = recipe(warm_up=0.1, learning_rate=2.0)
    assert [round(factor(given, done), 3) for done in (0, 0.05, 0.1, 0.55, 1)] == [0.01, 0.5, 1.0, 0.5, 0.0]
    assert factor(recipe(schedule="constant", warm_up=0.0), 0.99) == 1.0


def test_layers_further_from_the_heads_learn_slower():
    learner = Learner(DTViT("test_vit"))
    made = optimiser(learner, recipe(layer_decay=0.5))
    set_rate(made, recipe(layer_decay=0.5, warm_up=0.0, learning_rate=1.0), 0.0)

    rate = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    assert len(rate) == len(list(learner.parameters()))
    blocks = [rate[id(block.attn.proj.weight)] for block in learner.model.encoder.blocks]
    assert all(later == pytest.approx(2 * earlier) for earlier, later in itertools.pairwise(blocks))
    assert (
        rate[id(learner.model.presence.weight)]
        == 1.0
        >= blocks[-1]
        > blocks[0]
        > rate[id(learner.model.encoder.cls_token)]
    )
    with pytest.raises(UnusableRecipe, match="layer_decay needs a timm encoder"):
        optimiser(Learner(DTViT("squeezenet1_0")), recipe(layer_decay=0.5, encoder="squeezenet1_0"))


def test_weight_decay_spares_vectors_unless_everything_is_meant():
    learner = Learner(DTViT("test_vit"))
    spared = optimiser(learner, recipe(weight_decay=0.1)).param_groups[1]["params"]
    assert any(p is learner.model.encoder.pos_embed for p in spared)
    assert any(p is learner.model.presence.bias for p in spared)
    assert not any(p is learner.model.presence.weight for p in spared)
    for layers in (1.0, 0.5):
        groups = optimiser(learner, recipe(weight_decay=0.1, decay_everything=True, layer_decay=layers)).param_groups
        assert {group["weight_decay"] for group in groups} == {0.1}


@pytest.mark.parametrize("layers", [1.0, 0.5])
@pytest.mark.parametrize(
    ("encoder", "embeddings"),
    [
        ("vit_tiny_patch16_dinov3_qkvb", {"cls_token", "reg_token"}),
        ("deit_tiny_distilled_patch16_224", {"cls_token", "dist_token", "pos_embed"}),
        ("xcit_nano_12_p16_224", {"cls_token", "pos_embed.token_projection.weight"}),
        ("resnet18", set()),
    ],
)
def test_weight_decay_spares_the_embeddings_that_an_encoder_lists(encoder, embeddings, layers):
    with torch.device("meta"):
        learner = Learner(DTViT(encoder))
    groups = optimiser(learner, recipe(weight_decay=0.1, layer_decay=layers, encoder=encoder)).param_groups
    spared = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    named = dict(learner.model.encoder.named_parameters())
    assert {name for name, p in named.items() if id(p) in spared and p.ndim > 1} == embeddings
    assert sum(len(group["params"]) for group in groups) == len(list(learner.parameters()))


def test_the_average_follows_the_weights():
    model = torch.nn.BatchNorm1d(1)
    kept = Average(model, 0.9)
    expected = 1.0
    for step in range(40):
        with torch.no_grad():
            model.weight.fill_(float(step))
        model.num_batches_tracked += 1
        kept.follow(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(kept.model.weight) == pytest.approx(expected)
    assert int(kept.model.num_batches_tracked) == 40
    assert Average(model, 0.0).model is model


def test_seeds_differ_by_run_step_and_rank():
    made = {seed_of(*each) for each in [(0, 1, 0), (1, 0, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (2**40, 1, 0)]}
    assert len(made) == 6
    assert all(0 <= each < 2**32 for each in made)


def test_a_time_limit_ends_the_whole_schedule(tmp_path, data):
    started = time.monotonic()
    fit(recipe(steps=100_000, evaluate_every=100_000), settings(tmp_path, max_time=0.05), data, SOURCE, quiet)
    assert time.monotonic() - started < 100
    assert 1 <= describe(tmp_path / "drawn.safetensors").metadata.training["steps_done"] < 100_000
    assert float(rows(tmp_path)[-1]["learning_rate"]) < 1e-4 < math.inf


def test_a_time_limit_used_up_by_the_first_lessons_is_reported(tmp_path, data):
    with pytest.raises(UnusableRun, match=r"no step .*--max-time"):
        fit(recipe(first_lessons=10), settings(tmp_path, max_time=1e-6), data, SOURCE, quiet)


def test_first_lessons_are_not_given_again_when_a_run_that_ended_after_them_goes_on(tmp_path, data, monkeypatch):
    def stopped(*_args):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(Run, "take_step", stopped)
        with pytest.raises(Stopped):
            fit(recipe(first_lessons=10), settings(tmp_path), data, SOURCE, quiet)
    said = []
    fit(recipe(first_lessons=10), settings(tmp_path), data, SOURCE, said.append)
    assert "continuing from step 0" in said
    assert not [each for each in said if each.startswith("first lessons")]
    fit(recipe(first_lessons=10), settings(tmp_path / "at once"), data, SOURCE, quiet)
    assert same_weights(tmp_path / "drawn.safetensors", tmp_path / "at once" / "drawn.safetensors")


def test_first_lessons_leave_most_of_a_time_limit_to_the_training(tmp_path, data):
    started = time.monotonic()
    fit(recipe(first_lessons=10**6, steps=10**6), settings(tmp_path, max_time=0.1), data, SOURCE, quiet)
    assert time.monotonic() - started < 100
    assert describe(tmp_path / "drawn.safetensors").metadata.training["steps_done"] >= 1


def test_first_lessons_say_how_far_they_are(tmp_path, data, monkeypatch):
    monkeypatch.setattr(lessons, "SAY_EVERY_S", 0.0)
    said = []
    fit(recipe(first_lessons=10, steps=1), settings(tmp_path), data, SOURCE, said.append)
    told = [each for each in said if each.startswith("first lessons: step")]
    assert len(told) == 9
    assert re.fullmatch(r"first lessons: step 9 of 10, loss 0\.\d{3}, about 0 min left", told[-1])


def test_a_look_sees_whole_patients_of_both_classes_even_if_the_list_is_sorted(data):
    by_label = data.take(np.argsort(data.presence, kind="stable"))
    chosen = looking.some(by_label, recipe(validation_slices=12))
    assert 12 <= len(chosen) < len(data)
    assert set(chosen.presence.tolist()) == {0, 1}
    for patient in np.unique(chosen.patient):
        assert (chosen.patient == patient).sum() == (data.patient == patient).sum()
    assert looking.some(by_label, recipe(validation_slices=0)) is by_label


def test_a_run_cannot_start_from_a_checkpoint_of_another_shape(tmp_path, data):
    first = fit(recipe(steps=1), settings(tmp_path / "first"), data, SOURCE, quiet)
    other = recipe(steps=1, start_from=str(first), location_outputs=4)
    with pytest.raises(UnusableRecipe, match=r"start_from: drawn\.safetensors is test_vit.*3 location outputs"):
        fit(other, settings(tmp_path / "second"), data, SOURCE, quiet)


def test_a_compiled_learner_has_the_same_loss(tmp_path, data, monkeypatch):
    """Traced and guarded, but not translated into C++, which takes a compiler and a minute."""
    monkeypatch.setattr(Learner, "compile", lambda self: torch.nn.Module.compile(self, backend="eager"))
    plain = {**PLAIN, "steps": 2, "evaluate_every": 1}
    fit(recipe(**plain), settings(tmp_path / "plain"), data, SOURCE, quiet)
    fit(recipe(**plain, compile=True), settings(tmp_path / "compiled"), data, SOURCE, quiet)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)


def test_a_terminal_sees_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    seen = Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setenv("TERM", "xterm")
    bar = Bar(True)
    assert bar.shown
    bar.show(0.25, "step 25 of 100")
    bar.close()
    assert "step 25 of 100" in seen.getvalue()
    assert not Bar(False).shown
