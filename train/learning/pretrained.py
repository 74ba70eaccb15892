"""ImageNet weights to start from: from the encoder's own hub, from a file, or none; and whose they are."""

from __future__ import annotations

import contextlib
import pickle
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import getproxies

import huggingface_hub
import timm
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys, register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

from dtvit.model import FROM_TORCHVISION, DTViT
from train.recipe import Recipe

SCRATCH = "from scratch"


class UnavailableWeights(Exception):
    """The pretrained weights cannot be obtained; the text says which, why, and what to do instead."""


@dataclass(frozen=True)
class Start:
    """The weights that a run begins with, as its checkpoint describes them."""

    told: str
    """Where they come from."""
    licence: str = ""
    """What is known of theirs, a clause; empty if they are random."""
    before: str = ""
    """What they have learned from, in the words of their checkpoint and of those before it; empty without one."""
    patients_seen: str = ""
    """As in `dtvit.checkpoint.Metadata`, likewise."""
    split: str = ""
    """SHA-256 of the split that patients were last dealt out by, likewise."""


def model(recipe: Recipe) -> tuple[DTViT, Start]:
    """The model of a recipe, and what its weights are. Raises UnavailableWeights."""
    wanted: bool | Path = {"none": False, "auto": True}.get(recipe.pretrained, Path(recipe.pretrained))
    if wanted is True and recipe.encoder not in FROM_TORCHVISION:
        _ask_only_the_cache_where_there_is_no_network()
    if isinstance(wanted, Path) and not wanted.is_file():
        raise UnavailableWeights(_remedy(recipe, wanted, FileNotFoundError("no such file")))
    try:
        with _missing_weights() as missing:
            made = DTViT(
                recipe.encoder, recipe.location_outputs, recipe.head, pretrained=wanted, drop_path=recipe.drop_path
            )
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as exc:
        if not wanted:
            raise
        raise UnavailableWeights(_remedy(recipe, wanted, exc)) from exc
    if isinstance(wanted, Path):
        _all_came(recipe, made, wanted, missing)
        unknown = f"it started from the weights in {wanted.name}, whose publisher knows under which licence they are"
        return made, Start(f"weights of {wanted.name}", unknown)
    if not wanted:
        return made, Start(SCRATCH)
    return made, Start(f"ImageNet weights ({source(recipe.encoder)})", published(recipe.encoder))


def published(encoder: str) -> str:
    """What the library that fetches an encoder's ImageNet weights says of their licence, as a clause."""
    library = "torchvision" if encoder in FROM_TORCHVISION else "timm"
    config = timm.get_pretrained_cfg(encoder) if library == "timm" else None
    licence = config.license if config is not None else None  # torchvision keeps none beside its weights
    stated = f"the licence {licence}" if licence else "no licence"
    return f"it started from ImageNet weights ({source(encoder)}), for which {library} states {stated}"


def source(encoder: str) -> str:
    """Where the weights of an encoder are kept, for whoever must carry them to a machine without network."""
    if encoder in FROM_TORCHVISION:
        return f"torchvision {encoder}"
    config = timm.get_pretrained_cfg(encoder)
    return (config.hf_hub_id or config.url or "nowhere") if config is not None else "nowhere"


@contextlib.contextmanager
def _missing_weights() -> Iterator[set[str]]:
    """Names of weights that no file had, of modules made and filled meanwhile: timm passes over them silently.

    A module can be hooked once it exists, and timm fills it before returning it; so each is hooked when it gets its
    first child.
    """
    missing: set[str] = set()
    asked: dict[nn.Module, RemovableHandle] = {}

    def note(_module: nn.Module, keys: _IncompatibleKeys) -> None:
        missing.update(keys.missing_keys)

    def ask(module: nn.Module, _name: str, _child: nn.Module | None) -> None:
        if module not in asked:
            asked[module] = module.register_load_state_dict_post_hook(note)  # type: ignore[no-untyped-call]

    watch = register_module_module_registration_hook(ask)
    try:
        yield missing
    finally:
        watch.remove()
        for each in asked.values():
            each.remove()


def _all_came(recipe: Recipe, made: DTViT, file: Path, missing: set[str]) -> None:
    """A matrix that no file had is still random; norms and biases may begin as they do without a file."""
    lost = [name for name, p in made.encoder.named_parameters() if p.ndim > 1 and name in missing]
    if lost:
        raise UnavailableWeights(_remedy(recipe, file, KeyError(f"{len(lost)} are missing, such as {lost[0]}")))


def _remedy(recipe: Recipe, wanted: bool | Path, problem: Exception) -> str:
    first_line = (str(problem).splitlines() or [type(problem).__name__])[0]
    # torch's advice to trust the file, which timm passes on, cannot be followed here
    if isinstance(problem, pickle.UnpicklingError) or "weights_only" in first_line:
        first_line = "neither safetensors nor a pth file of weights alone"
    if isinstance(wanted, Path):
        return (
            f"{wanted} gives no weights for {recipe.encoder} ({first_line}); "
            f"name a complete file for that encoder ({source(recipe.encoder)}), or train with --pretrained none"
        )
    return (
        f"ImageNet weights for {recipe.encoder} cannot be fetched ({first_line}); fetch {source(recipe.encoder)} where "
        "there is a network and name the file with --pretrained FILE, or train from scratch with --pretrained none"
    )


def _ask_only_the_cache_where_there_is_no_network() -> None:
    """The hub's client would try a name that does not resolve ten times, for most of a minute."""
    host = huggingface_hub.constants.ENDPOINT.partition("://")[2].partition("/")[0].partition(":")[0]
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        # A proxy resolves names that this machine cannot.
        huggingface_hub.constants.HF_HUB_OFFLINE = not {"https", "all"} & set(getproxies())
