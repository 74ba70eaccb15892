"""Recipes: read whole, or one error that names the key and what was meant."""

import argparse
from pathlib import Path

import pytest

from dtvit import checkpoint as checkpoints
from train.commands.fit import parse
from train.options import add_checkpoint
from train.recipe import SHIPPED, UnusableRecipe, read, shipped


def written(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", ["phantom", "robust", "v1", "v2"])
def test_every_shipped_recipe_reads_and_opens_with_its_claims(name):
    assert name in shipped()
    assert read(name).steps > 0 or read(name).epochs > 0
    head = (SHIPPED / f"{name}.toml").read_text().split("\n\n")[0]
    for claim in ("command:", "hardware:", "hours:", "expected:"):
        assert f"# {claim}" in head


def test_the_papers_recipes_say_what_the_papers_say():
    first, second = read("v1"), read("v2")
    assert (first.optimiser, first.learning_rate, first.momentum, first.epochs) == ("sgd", 0.01, 0.9, 50)
    assert (second.optimiser, second.learning_rate, second.weight_decay, second.epochs) == ("adamw", 2e-5, 0.01, 10)
    assert second.encoder == "vit_large_patch16_224"
    assert (first.presence_loss, first.location_loss) == (1, 1)
    assert (second.presence_loss, second.location_loss) == (0.5, 0.5)
    for each in (first, second):
        assert each.location_outputs == 4
        assert each.mean_std[0] == (0.485, 0.456, 0.406)
        assert dict(each.replication) == {"deep": 1, "lobar": 3, "subtentorial": 12, "normal": 3}
        assert (each.batch, each.without_augmentation().batch) == (32, 8)
        assert (each.without_augmentation().augmentation, each.without_augmentation().sampling) == ("none", "plain")


def test_a_recipe_of_ones_own_needs_only_what_differs(tmp_path):
    found = read(
        written(tmp_path, 'encoder = "resnet18"\nepochs = 3\nsampling = "shares"\n[shares]\npatient_healthy = 1')
    )
    assert (found.name, found.encoder, found.epochs) == ("mine", "resnet18", 3.0)
    assert dict(found.shares) == {"patient_healthy": 1.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = 5", r"mine\.toml: the key encoder is missing"),
        ('encodr = "x"', r"mine\.toml: unknown key encodr; did you mean 'encoder'"),
        ('encoder = "x"\nsteps = 5\n[shares]\npatient_bleding = 1', "unknown key shares.patient_bleding; did you mean"),
        ('encoder = "x"\nsteps = 5\n[replication]\ndep = 1', "unknown key replication.dep; did you mean 'deep'"),
        ('encoder = "x"\nsteps = "5"', "steps must be a whole number, got '5'"),
        ('encoder = "x"\nsteps = 5.5', "steps must be a whole number, got 5.5"),
        ('encoder = "x"\nsteps = 5\ncompile = 1', "compile must be true or false, got 1"),
        ('encoder = "x"\nsteps = 5\nhead = "round"', "head must be one of linear, mlp, got 'round'"),
        ('encoder = "x"\nsteps = 5\nlocation_outputs = 5', "location_outputs must be 3 or 4"),
        ('encoder = "x"\nsteps = 5\nlearning_rate = 0.0', "learning_rate must be above 0"),
        ('encoder = "x"\nsteps = 5\nlearning_rate = nan', "learning_rate must be a finite number, got nan"),
        ('encoder = "x"\nsteps = 5\nema = 1.0', "ema must be below 1"),
        ('encoder = "x"\nsteps = 5\nbatch = 6\naccumulation = 4', "accumulation must divide batch"),
        ('encoder = "x"\nsteps = 5\nepochs = 5.0', "either epochs or steps"),
        ('encoder = "x"', "either epochs or steps"),
        ("steps = 5", "encoder"),
        ('encoder = "x"\nsteps = 5\nsampling = "shares"', r"needs a table \[shares\]"),
        ('name = "../x"\nencoder = "x"\nsteps = 5', "name must be usable as a file name, got '../x'"),
        ('encoder = "x"\nsteps = 5\ngeometry = "square"', "geometry must be one of resize-256-crop-224, head-box-224"),
        ('encoder = "x"\nsteps = 5\ncounterfactuals = true', "needs geometry = 'head-box-224'"),
        ('encoder = "x"\nsteps = 5\nshares = 3', "shares must be a table, got 3"),
        (
            'encoder = "x"\nsteps = 5\n[replication]\ndeep = inf',
            "replication.deep must be a number of 0 or more, got inf",
        ),
        ('encoder = "x"\nsteps = 5\n[shares]\npatient_bleeding = nan', "must be a number of 0 or more, got nan"),
        ("encoder =", "is not valid TOML"),
    ],
)
def test_an_impossible_value_is_reported_with_its_key(tmp_path, text, said):
    with pytest.raises(UnusableRecipe, match=said):
        read(written(tmp_path, text))


def test_a_missing_recipe_is_reported_with_those_that_exist():
    with pytest.raises(UnusableRecipe, match=r"no recipe 'robst'.*phantom, robust, robust-finish, v1, v2"):
        read("robst")


def test_any_key_can_be_set_from_the_command_line():
    found = read("robust").changed(
        {"steps": "7", "ema": "0.5", "compile": "true", "encoder": "resnet18", "shares.patient_bleeding": "0.9"}
    )
    assert (found.steps, found.ema, found.compile, found.encoder) == (7, 0.5, True, "resnet18")
    assert found.shares["patient_bleeding"] == 0.9
    assert found.shares["phantom_healthy"] == read("robust").shares["phantom_healthy"]
    for wrong, said in (
        ({"stps": "7"}, "'steps'"),
        ({"steps": "many"}, "whole number"),
        ({"seed": "9" * 20}, "seed must be at most"),
        ({"replication.normal": "0.4"}, "replication.normal must be a whole number"),
        ({"steps.x": "1"}, "is not a table"),
    ):
        with pytest.raises(UnusableRecipe, match=said):
            read("robust").changed(wrong)


@pytest.mark.parametrize("name", shipped())
def test_each_shipped_recipe_is_taken_by_its_name_on_a_command_line(name):
    assert parse(["--recipe", name, "--data", "m.csv", "--output", "run"], "train")[0] == read(name)


def test_a_command_line_becomes_recipe_and_settings(tmp_path, capsys):
    line = "--recipe v2 --output run --data m.csv --augment none --encoder resnet34 --pretrained none --split paper"
    recipe, settings = parse(f"{line} --set epochs=2 --max-time 9.5".split(), "train")
    assert (recipe.encoder, recipe.pretrained, recipe.split, recipe.epochs) == ("resnet34", "none", "paper", 2.0)
    assert (recipe.batch, recipe.augmentation) == (8, "none")
    assert (str(settings.output), str(settings.data), settings.max_time) == ("run", "m.csv", 9.5)
    with pytest.raises(UnusableRecipe, match=r"v1 learns from patients.*--data"):
        parse(["--recipe", "v1", "--output", "run"], "train")
    with pytest.raises(UnusableRecipe, match=r"no table \[replication\]"):
        parse(["--recipe", "phantom", "--output", "run", "--augment", "replicate"], "train")
    with pytest.raises(UnusableRecipe, match=r"split 'pateint' is .*nor a file; did you mean 'patient'\?"):
        parse(["--recipe", "v1", "--data", "m.csv", "--output", "run", "--split", "pateint"], "train")
    (tmp_path / "fold.csv").touch()
    fold = str(tmp_path / "fold.csv")
    assert parse(["--recipe", "v1", "--data", "m.csv", "--output", "run", "--split", fold], "train")[0].split == fold
    for wrong, said in (
        (["--max-time", "0"], "--max-time: must be more than 0, got 0"),
        (["--max-time", "nan"], "--max-time: must be a finite number, got nan"),
        (["--phantom-minutes", "inf"], "--phantom-minutes: must be a finite number, got inf"),
        (["--save-every-s", "nan"], "--save-every-s: must be a finite number, got nan"),
        (["--save-every-s=-1"], "--save-every-s: must not be negative, got -1"),
        (["--threads", "0"], "--threads: must be at least 1, got 0"),
        (["--set", "steps"], "--set takes key=value"),
        (["--augment", "twice"], "invalid choice"),
    ):
        with pytest.raises(SystemExit):
            parse(["--recipe", "phantom", "--output", "run", *wrong], "train")
        assert said in capsys.readouterr().err


def test_a_checkpoint_is_a_file_or_the_word_shipped():
    parser = argparse.ArgumentParser()
    add_checkpoint(parser)
    for text, path in (
        ("shipped", checkpoints.SHIPPED),
        ("./shipped", Path("shipped")),
        ("runs/shipped", Path("runs/shipped")),
    ):
        assert parser.parse_args([text]).checkpoint == path
