"""What cannot be trained is refused before a picture is read, and what is in the folder of a run stays as it is."""

import pytest
import torch
from learning import SOURCE, drawn, filed_heads, quiet, recipe, settings, without_network
from listed import entries, many, table

from dtvit.checkpoint import UnusableCheckpoint, describe
from dtvit.inference import UnavailableDevice
from dtvit.model import UnknownEncoder
from train.card import model_card
from train.dataset import manifest
from train.errors import UnusableData
from train.learning.loop import fit
from train.learning.pretrained import UnavailableWeights
from train.learning.state import STATE, UnusableRun
from train.options import Settings
from train.recipe import UnusableRecipe
from train.run import SPLIT, check_brace_removal, run

PLAIN = {"phantom_heads": 0, "augmentation": "none", "sampling": "plain", "tokens": 0, "first_lessons": 0}


def files_of(folder):
    """What each file holds, hidden locks left out."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


@pytest.fixture
def unread(monkeypatch):
    """Fails the test that reads a picture, or draws a head."""

    def read(*_args, **_keywords):
        raise AssertionError("a picture was read, or a head drawn, before this was refused")

    monkeypatch.setattr("train.dataset.filed.load", read)
    monkeypatch.setattr("train.making.synthetic.make", read)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return filed_heads(tmp_path_factory.mktemp("heads"))


@pytest.mark.parametrize(
    ("changes", "machine", "refused", "said"),
    [
        ({"encoder": "resnet19"}, {}, UnknownEncoder, "no encoder 'resnet19'; nearest: resnet18"),
        ({"encoder": "vit_nonsense"}, {}, UnknownEncoder, "no encoder 'vit_nonsense'"),
        ({"pretrained": "gone.pth"}, {}, UnavailableWeights, r"gone\.pth gives no weights for test_vit"),
        ({"start_from": "gone.safetensors"}, {}, UnusableCheckpoint, r"gone\.safetensors"),
        ({}, {"device": "cuda:99"}, UnavailableDevice, "device 'cuda:99' is not available"),
        ({}, {"device": "gpu"}, UnavailableDevice, "device 'gpu' is not available"),
        ({"encoder": "alexnet", "checkpointing": True}, {}, UnusableRecipe, "alexnet does not support checkpointing"),
        ({"split": "all"}, {}, UnusableData, "no validation rows in manifest.csv"),
    ],
    ids=str,
)
def test_what_needs_no_picture_is_refused_before_the_first(tmp_path, heads, unread, changes, machine, refused, said):
    given = recipe(**{**PLAIN, "split": "given", **changes})
    with pytest.raises(refused, match=said):
        run(given, Settings(output=tmp_path / "run", data=heads, **{"device": "cpu", **machine}), quiet)
    assert set(files_of(tmp_path / "run")) <= {"run.lock"}


def removed_by(heads, folder, *versions):
    """A manifest of the same pictures that says what removed the head holder, in turns."""
    header, *lines = heads.read_text().splitlines()
    lines = [f"{heads.parent}/{line},{versions[n % len(versions)]}" for n, line in enumerate(lines)]
    path = folder / "removed.csv"
    path.write_text("\n".join([f"{header},brace_removal", *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("preprocessing", "versions", "said"),
    [
        ("paper", ["robust-1"], r"robust-1 removed .* drawn is for paper-1 .*--set preprocessing=robust, or prepare"),
        ("robust", ["paper-1"], r"paper-1 removed .* drawn is for robust-1 .*--set preprocessing=paper, or prepare"),
        ("robust", ["robust-1", "paper-1"], "--set preprocessing=mixed, or prepare"),
        ("mixed", ["robust-0"], r"robust-0 removed .* is for paper-1, robust-1 \(preprocessing = 'mixed'\); prepare"),
    ],
)
def test_pictures_that_went_through_something_else_than_the_recipe_says(
    tmp_path, heads, unread, preprocessing, versions, said
):
    given = recipe(**PLAIN, preprocessing=preprocessing, split="given")
    data = removed_by(heads, tmp_path, *versions)
    with pytest.raises(UnusableRecipe, match=rf"removed\.csv lists pictures whose head holder .*{said}"):
        run(given, Settings(output=tmp_path / "run", data=data, device="cpu"), quiet)


@pytest.mark.parametrize(
    ("preprocessing", "versions"), [("robust", ["robust-1"]), ("mixed", ["robust-1", "paper-1"]), ("paper", [""])]
)
def test_pictures_that_went_through_what_the_recipe_says(tmp_path, heads, preprocessing, versions):
    listed = manifest.read(removed_by(heads, tmp_path, *versions))
    check_brace_removal(recipe(preprocessing=preprocessing), listed)


def test_unavailable_weights_are_reported_before_a_picture_is_read(tmp_path, heads, unread, monkeypatch):
    without_network(monkeypatch, tmp_path)
    given = recipe(**PLAIN, encoder="resnet18", pretrained="auto")
    with pytest.raises(UnavailableWeights, match=r"resnet18 cannot be fetched.*--pretrained FILE"):
        run(given, Settings(output=tmp_path / "run", data=heads, device="cpu"), quiet)


def test_wrong_names_are_reported_before_a_manifest_is_read(tmp_path):
    given = Settings(output=tmp_path / "run", data=tmp_path / "gone.csv", device="cpu")
    with pytest.raises(UnknownEncoder):
        run(recipe(encoder="resnet19", pretrained="auto"), given, quiet)
    with pytest.raises(UnusableData, match=r"gone\.csv cannot be read"):  # before weights are fetched
        run(recipe(encoder="vit_huge_patch14_224", pretrained="auto"), given, quiet)


def test_a_manifest_is_refused_before_synthetic_heads_are_drawn(tmp_path, unread):
    (tmp_path / "manifest.csv").write_text("path,patient_id,ich\ngone.png,a,1\n")
    with pytest.raises(UnusableData, match=r"row 2, path: gone\.png is not there"):
        run(recipe(), Settings(output=tmp_path / "run", data=tmp_path / "manifest.csv", device="cpu"), quiet)


def test_a_damaged_picture_is_reported_before_synthetic_heads_are_drawn(tmp_path, monkeypatch):
    def drawn(*_args, **_keywords):
        raise AssertionError("heads were drawn first")

    monkeypatch.setattr("train.making.synthetic.make", drawn)
    path = table(tmp_path, entries(many()))
    broken = tmp_path / path.read_text().splitlines()[5].split(",")[0]
    broken.write_bytes(broken.read_bytes()[:-30])
    with pytest.raises(UnusableData, match=rf"row 6, path: {broken.name} is damaged or cut off"):
        run(recipe(), Settings(output=tmp_path / "run", data=path, device="cpu"), quiet)


def test_the_folder_of_a_run_keeps_its_split_when_another_is_refused(tmp_path, heads, request):
    output = tmp_path / "run"
    given = recipe(**PLAIN, split="given", steps=1)
    run(given, Settings(output=output, data=heads, device="cpu", threads=1), quiet)
    request.getfixturevalue("unread")
    assert {SPLIT, STATE} <= set(files_of(output))
    before = files_of(output)
    other = filed_heads(tmp_path / "other", heads=40)
    for changes, data, said in (
        ({}, other, rf"holds a run on other data: its split\.csv differs from how .*{other.name} is split now"),
        ({"split": "patient"}, heads, r"another split \(given, not patient\)"),
        ({"steps": 2}, heads, r"another steps \(1, not 2\)"),
        ({"encoder": "resnet18"}, heads, r"another encoder \(test_vit, not resnet18\)"),
    ):
        with pytest.raises(UnusableRun, match=said):
            run(
                recipe(**{**PLAIN, "split": "given", "steps": 1, **changes}),
                Settings(output=output, data=data, device="cpu", threads=1),
                quiet,
            )
        assert files_of(output) == before


NO_MEMORY = pytest.mark.parametrize(
    "failure",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("DefaultCPUAllocator: can't")],
    ids=["cuda", "cpu"],
)


@NO_MEMORY
def test_too_little_memory_is_reported_with_what_to_do(tmp_path, heads, monkeypatch, failure):
    def step(*_args):
        raise failure

    monkeypatch.setattr("train.learning.loop.Run.take_step", step)
    given = recipe(**PLAIN, split="given", accumulation=2)
    with pytest.raises(UnusableRun, match=r"memory for test_vit with a batch of 16: .*--set accumulation=4"):
        run(given, Settings(output=tmp_path / "run", data=heads, device="cpu", threads=1), quiet)


@NO_MEMORY
def test_a_run_without_memory_to_continue_is_not_called_damaged(tmp_path, heads, monkeypatch, failure):
    """Whoever believed it would remove the state, and with it the training."""
    machine = Settings(output=tmp_path / "run", data=heads, device="cpu", threads=1)
    run(recipe(**PLAIN, split="given", steps=1), machine, quiet)
    load = torch.load

    def loaded(path, **options):
        if options.get("mmap"):
            return load(path, **options)
        raise failure

    def restored(*_args):
        raise failure

    for name, instead in (("torch.load", loaded), ("train.learning.loop.Run._restore", restored)):
        with monkeypatch.context() as patched:
            patched.setattr(name, instead)
            with pytest.raises(UnusableRun, match=r"too little memory for test_vit .*run again"):
                run(recipe(**PLAIN, split="given", steps=1), machine, quiet)


@pytest.mark.parametrize("option", ["cache", "phantoms"])
def test_a_folder_that_is_a_file_is_refused(tmp_path, heads, option):
    (tmp_path / "file").write_text("")
    given = recipe(**{**PLAIN, "split": "given", "phantom_heads": 20})
    machine = Settings(output=tmp_path / "run", data=heads, device="cpu", **{option: tmp_path / "file" / "kept"})
    with pytest.raises(UnusableRun, match=r"file.*cannot be used.*nothing is trained yet.*--cache or --phantoms"):
        run(given, machine, quiet)


def test_a_start_that_test_patients_have_trained_is_refused(tmp_path, heads):
    """Their figures would stand under "patients apart"."""
    plain, machine = recipe(**PLAIN, steps=1, split="given"), {"data": heads, "device": "cpu"}
    first = run(plain, Settings(output=tmp_path / "first", **machine), quiet)
    on = plain.changed({"start_from": str(first), "split": "patient"})
    with pytest.raises(
        UnusableRecipe, match=r"start_from: drawn\.safetensors was trained on manifest\.csv under another"
    ):
        run(on, Settings(output=tmp_path / "other", **machine), quiet)
    its_own = on.changed({"split": str(tmp_path / "first" / SPLIT)})
    assert run(its_own, Settings(output=tmp_path / "same", **machine), quiet).exists()


def test_a_checkpoint_of_patients_that_learned_on_from_phantoms_has_seen_them(tmp_path, heads):
    """Else its card says "no patient", and they could test who trained it."""
    plain, machine = recipe(**PLAIN, steps=1, split="given"), {"data": heads, "device": "cpu"}
    first = run(plain, Settings(output=tmp_path / "first", **machine), quiet)
    on = recipe(**PLAIN, steps=1, start_from=str(first))
    second = fit(on, settings(tmp_path / "second"), drawn(), SOURCE, quiet)
    found = describe(second)
    assert found.metadata.patients_seen == "36 patients, 18 of them with slices labelled as bleeding"
    assert "has seen no patient" not in model_card(found)
    third = plain.changed({"start_from": str(second), "split": "patient"})
    with pytest.raises(
        UnusableRecipe, match=r"start_from: drawn\.safetensors was trained on manifest\.csv under another"
    ):
        run(third, Settings(output=tmp_path / "other", **machine), quiet)
    assert run(
        plain.changed({"start_from": str(second)}), Settings(output=tmp_path / "same", **machine), quiet
    ).exists()


def test_an_unused_split_column_is_reported(tmp_path, heads):
    said = []
    machine = Settings(output=tmp_path / "run", data=heads, device="cpu")
    run(recipe(**PLAIN, steps=1, split="patient"), machine, said.append)
    assert "manifest.csv has a column split, which is not used; --split given uses it" in said
    said.clear()
    run(
        recipe(**PLAIN, steps=1, split="given"),
        Settings(output=tmp_path / "given", data=heads, device="cpu"),
        said.append,
    )
    assert not any("column split" in each for each in said)


def test_too_few_synthetic_heads_to_measure_on_are_refused_before_the_first_is_drawn(tmp_path, unread):
    given = Settings(output=tmp_path / "run", device="cpu")
    with pytest.raises(UnusableData, match=r"19 synthetic heads are too few .* set phantom_heads to 20 or more"):
        run(recipe(phantom_heads=19), given, quiet)
