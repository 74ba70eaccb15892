"""A recipe: everything that makes two training runs the same run, read from TOML; see train/recipes for those shipped.

What depends on the machine (folders, device, threads, time limits) is not part of it: `train.options.Settings`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dtvit.brace import VERSIONS
from dtvit.findings import LOCATIONS
from dtvit.preprocess import GEOMETRIES, HEAD_BOX
from train.dataset.pictures import ORIGINS

SHIPPED = Path(__file__).parent / "recipes"
KINDS = ("bleeding", "healthy", "unclear")
SHARES = tuple(f"{origin}_{kind}" for origin in ORIGINS for kind in KINDS)
REPLICATED = (*LOCATIONS, "normal")
SPLITS = ("patient", "paper", "given", "all")
MeanStd = tuple[tuple[float, float, float], tuple[float, float, float]]
"""What pictures are normalised by before a model sees them."""
IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: MeanStd = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class UnusableRecipe(ValueError):
    """The recipe is missing, or says something impossible; the text names the key and what is allowed."""


@dataclass(frozen=True)
class Recipe:
    name: str
    """Name of the checkpoint, and of its file."""

    # model
    encoder: str
    """A timm name, or alexnet or squeezenet1_0."""
    head: Literal["linear", "mlp"] = "linear"
    location_outputs: int = 3
    """4: with "none" for slices without hemorrhage, as in the papers' code; 3: those slices teach no location."""
    normalisation: Literal["imagenet", "half"] = "half"
    """Mean and standard deviation that pictures are normalised by: ImageNet's, or 0.5."""
    pretrained: str = "none"
    """`auto`: ImageNet weights from the encoder's own hub; `none`; or a file (safetensors, pth)."""
    start_from: str = ""
    """A checkpoint of this project to start from."""
    drop_path: float = 0.0
    """Stochastic depth."""

    # data
    geometry: str = "resize-256-crop-224"
    preprocessing: Literal["mixed", "robust", "paper"] = "robust"
    """Brace removal that the pictures went through; phantoms are made with it (mixed: half of the heads with each)."""
    split: str = "patient"
    """`patient`, `paper` (slices mixed), `given` (the manifest's column), `all` (every patient trains; phantoms
    validate and test), or a file of `train.dataset.splits`."""
    phantom_heads: int = 0
    """Synthetic heads to add, each with its bleed and without."""
    counterfactuals: bool = False
    """Add patients' slices healed, and bleeds transplanted (`train.making.counterfactual`)."""
    lookalikes: bool = False
    """Add patients' slices with lime or a dense falx, and blanked ones (`train.making.lookalikes`)."""
    judged_by: Literal["all", "patient", "phantom"] = "all"
    """Whose slices validate and test."""
    seed: int = 0
    """Seed of split, phantoms, weights, order and augmentation."""

    # batches
    batch: int = 32
    """Pictures per step, over all ranks together."""
    batch_without_augmentation: int = 0
    """The same under `--augment none`; 0: as above."""
    sampling: Literal["plain", "replicate", "shares"] = "plain"
    """An epoch shows each training slice once, or `replication` times; or batches are drawn by `shares`."""
    replication: Mapping[str, int] = field(default_factory=dict)
    """How often an epoch shows a slice: by location, and `normal`."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Shares of a batch, by origin and kind (`patient_bleeding`); within "bleeding", locations are equally frequent."""
    augmentation: Literal["none", "paper", "scanner"] = "none"
    """`paper`: train.making.augment_paper; `scanner`: train.making.augment."""
    tokens: int = 0
    """Patches of a picture that a ViT sees in training, those of the head first; 0: all."""
    first_lessons: int = 0
    """Steps on single patches before the first on whole pictures; only for a ViT that starts from scratch."""

    # loss
    presence_loss: float = 1.0
    location_loss: float = 1.0
    """Factors of the two heads' mean cross entropy."""
    blood_loss: float = 0.0
    """Factor of the patches' own loss, where blood is traced (ViTs only); 0: without that head."""
    smoothing: float = 0.0
    """Label smoothing of both heads."""

    # optimisation
    epochs: float = 0.0
    steps: int = 0
    """One of the two sets the length of the training."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-4
    momentum: float = 0.9
    """Momentum of SGD; the first of AdamW's betas."""
    second_momentum: float = 0.999
    """The second of AdamW's betas."""
    weight_decay: float = 0.0
    decay_everything: bool = False
    """Weight decay on biases, norms and embeddings, too, as torch does by default."""
    layer_decay: float = 1.0
    """Each layer further from the heads learns slower by this factor (timm encoders)."""
    schedule: Literal["constant", "cosine"] = "cosine"
    warm_up: float = 0.0
    """Share of the run over which the learning rate rises from nearly nothing."""
    clip: float = 0.0
    """Highest norm of the gradient; 0: no limit."""
    accumulation: int = 1
    """Parts in which a batch is computed, if memory cannot hold a whole one."""
    checkpointing: bool = False
    """Compute activations again instead of keeping them: less memory, a third more time."""
    ema: float = 0.0
    """Decay of the running mean of the weights that is kept as the result; 0: the weights themselves."""

    # how it is computed
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device is fast at it."""
    compile: bool = False
    """torch.compile; pays off on a GPU for runs of an hour or more."""
    graphs: bool = True
    """Launch each pass of a ViT as a CUDA graph, where one rank computes whole batches on a GPU."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """auto: channels_last for convolutional encoders."""

    # choosing
    evaluate_every: int = 0
    """Steps between two looks at the validation part; 0: once an epoch."""
    validation_slices: int = 500
    """How many slices each look takes; the end takes all. 0: all."""
    patience: int = 0
    """The run ends after this many looks without improvement; 0: it never ends early."""
    choose: Literal["best", "last"] = "best"
    """Which weights are the result: lowest validation loss, or the last."""
    licence: str = ""
    """Licence of the checkpoint, in the words of whoever trained it; empty: its card says that the choice is open."""

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_ranges(self)
        for key, known in (("shares", SHARES), ("replication", REPLICATED)):
            for each, value in getattr(self, key).items():
                if each not in known:
                    raise UnusableRecipe(f"unknown key {key}.{each}{nearest(each, known)}")
                if not 0 <= value < math.inf:
                    raise UnusableRecipe(f"{key}.{each} must be a number of 0 or more, got {value}")
                if key == "replication" and value != int(value):
                    raise UnusableRecipe(f"{key}.{each} must be a whole number of times, got {value}")
        if self.sampling == "shares" and not sum(self.shares.values()):
            raise UnusableRecipe("sampling = 'shares' needs a table [shares] with a number above 0")
        if self.counterfactuals and self.geometry != HEAD_BOX:
            raise UnusableRecipe(f"counterfactuals = true needs geometry = {HEAD_BOX!r}, got {self.geometry!r}")
        if self.lookalikes and not self.counterfactuals:
            raise UnusableRecipe("lookalikes = true needs counterfactuals = true, which traces the blood to keep")
        if (self.epochs > 0) == (self.steps > 0):
            raise UnusableRecipe("a recipe sets its length by either epochs or steps, above 0")

    @property
    def brace_removal(self) -> frozenset[str]:
        """Versions of it that the pictures may have gone through."""
        return frozenset(version for mode, version in VERSIONS.items() if self.preprocessing in (mode, "mixed"))

    @property
    def from_scratch(self) -> bool:
        """Whether all weights are random at first."""
        return self.pretrained == "none" and not self.start_from

    @property
    def mean_std(self) -> MeanStd:
        return IMAGENET if self.normalisation == "imagenet" else HALF

    def recorded(self) -> dict[str, Any]:
        """As JSON would give it back; files by name only, so that a moved folder is still the same run.

        Without the licence: a finished run may be given another.
        """
        fields = dataclasses.asdict(self)
        del fields["licence"]
        for key in ("pretrained", "start_from", "split"):
            fields[key] = Path(fields[key]).name
        recorded: dict[str, Any] = json.loads(json.dumps(fields))
        return recorded

    def without_augmentation(self) -> Recipe:
        """Pictures as they are, not replicated; in the batches that the papers used for this."""
        return dataclasses.replace(
            self,
            augmentation="none",
            sampling="plain" if self.sampling == "replicate" else self.sampling,
            batch=self.batch_without_augmentation or self.batch,
        )

    def with_replication(self) -> Recipe:
        if not self.replication:
            raise UnusableRecipe(f"recipe {self.name} has no table [replication], which --augment replicate needs")
        return dataclasses.replace(self, sampling="replicate")

    def changed(self, assignments: Mapping[str, str]) -> Recipe:
        """The recipe with these values, as a person types them; `shares.patient_bleeding` sets one entry.

        Raises UnusableRecipe.
        """
        fields: dict[str, Any] = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        for key, text in assignments.items():
            table, _, entry = key.partition(".")
            _known(table)
            if entry:
                if not isinstance(fields[table], Mapping):
                    raise UnusableRecipe(f"{table} is not a table; set it as {table}=...")
                fields[table] = {**fields[table], entry: _typed(key, _number(text), float)}
            else:
                fields[key] = _typed(key, _from_text(text, TYPES[key]), TYPES[key])
        return Recipe(**fields)


TYPES = typing.get_type_hints(Recipe)
MOST_SEED = 2**63 - 1  # torch takes no more
POSITIVE = ("batch", "learning_rate", "accumulation")
SHARE = ("drop_path", "smoothing", "warm_up", "ema", "momentum", "second_momentum")


def defaults() -> dict[str, Any]:
    """The values of keys in a run that was begun before they existed."""
    bare = Recipe(name="", encoder="", steps=1).recorded()
    return {key: value for key, value in bare.items() if key not in ("name", "encoder", "steps")}


def fitting(brace_removal: Collection[str]) -> dict[str, str]:
    """The key `preprocessing` for pictures that went through these versions; nothing if none is known here."""
    modes = [mode for mode, version in VERSIONS.items() if version in brace_removal]
    return {"preprocessing": modes[0] if len(modes) == 1 else "mixed"} if modes else {}


def shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def read(named: str) -> Recipe:
    """A shipped recipe by its name, or one from a file. Raises UnusableRecipe."""
    path = SHIPPED / f"{named}.toml" if named in shipped() else Path(named)
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as exc:
        raise UnusableRecipe(
            f"no recipe {named!r} ({exc.strerror}); use one of {', '.join(shipped())}, or name a TOML file"
        ) from exc
    except tomllib.TOMLDecodeError as exc:
        raise UnusableRecipe(f"{path} is not valid TOML ({exc})") from exc
    try:
        for key in content:
            _known(key)
        if "encoder" not in content:
            raise UnusableRecipe("the key encoder is missing")
        return Recipe(**{"name": path.stem, **{key: _typed(key, value, TYPES[key]) for key, value in content.items()}})
    except UnusableRecipe as exc:
        raise UnusableRecipe(f"{path}: {exc}") from exc


def _known(key: str) -> None:
    if key not in TYPES:
        raise UnusableRecipe(f"unknown key {key}{nearest(key, tuple(TYPES))}")


def nearest(key: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.3)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(known)}"


def _typed(key: str, value: Any, wanted: Any) -> Any:
    """The value as its field holds it; an int will do for a float. Raises UnusableRecipe."""
    if typing.get_origin(wanted) is Literal:
        return value
    if typing.get_origin(wanted) is not None:
        if not isinstance(value, Mapping):
            raise UnusableRecipe(f"{key} must be a table, got {value!r}")
        return {each: _typed(f"{key}.{each}", number, float) for each, number in value.items()}
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        raise UnusableRecipe(f"{key} must be {names[wanted]}, got {value!r}")
    return value


def _from_text(text: str, wanted: Any) -> Any:
    if wanted in (int, float):
        return _number(text)
    if wanted is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    return text


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check_choices(recipe: Recipe) -> None:
    for key, wanted in TYPES.items():
        if typing.get_origin(wanted) is Literal and getattr(recipe, key) not in (known := typing.get_args(wanted)):
            raise UnusableRecipe(f"{key} must be one of {', '.join(known)}, got {getattr(recipe, key)!r}")
    if recipe.name != Path(recipe.name).name or recipe.name.startswith("."):
        raise UnusableRecipe(f"name must be usable as a file name, got {recipe.name!r}")
    if recipe.geometry not in GEOMETRIES:
        raise UnusableRecipe(f"geometry must be one of {', '.join(GEOMETRIES)}, got {recipe.geometry!r}")
    if recipe.location_outputs not in (3, 4):
        raise UnusableRecipe(f"location_outputs must be 3 or 4, got {recipe.location_outputs}")


def _check_ranges(recipe: Recipe) -> None:
    for key, wanted in TYPES.items():
        value = getattr(recipe, key)
        if wanted not in (int, float):
            continue
        if not math.isfinite(value):
            raise UnusableRecipe(f"{key} must be a finite number, got {value}")
        if value < 0:
            raise UnusableRecipe(f"{key} must not be negative, got {value}")
        if key in POSITIVE and value <= 0:
            raise UnusableRecipe(f"{key} must be above 0, got {value}")
        if key in SHARE and value >= 1:
            raise UnusableRecipe(f"{key} must be below 1, got {value}")
    if recipe.seed > MOST_SEED:
        raise UnusableRecipe(f"seed must be at most {MOST_SEED}, got {recipe.seed}")
    if not 0 < recipe.layer_decay <= 1:
        raise UnusableRecipe(f"layer_decay must lie above 0 and be at most 1, got {recipe.layer_decay}")
    if recipe.batch % recipe.accumulation:
        raise UnusableRecipe(f"accumulation must divide batch, got {recipe.accumulation} and {recipe.batch}")
