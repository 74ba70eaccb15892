"""ImageNet weights to start from: by the encoder's own hub, from a file, or none."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.request import getproxies

import huggingface_hub
import timm
import torch

from dtvit.model import FROM_TORCHVISION, DTViT
from train.recipe import Recipe

SCRATCH = "from scratch"


class UnavailableWeights(Exception):
    """The pretrained weights cannot be had; the text says which, why, and what to do instead."""


def model(recipe: Recipe) -> tuple[DTViT, str]:
    """The model of a recipe, and where its weights come from, as the checkpoint tells it. Raises UnavailableWeights."""
    wanted: bool | Path = {"none": False, "auto": True}.get(recipe.pretrained, Path(recipe.pretrained))
    if wanted is True and recipe.encoder not in FROM_TORCHVISION:
        _ask_only_the_cache_where_there_is_no_network()
    if isinstance(wanted, Path) and not wanted.is_file():
        raise UnavailableWeights(_remedy(recipe, wanted, FileNotFoundError("no such file")))
    drawn = torch.get_rng_state()
    try:
        made = DTViT(
            recipe.encoder, recipe.location_outputs, recipe.head, pretrained=wanted, drop_path=recipe.drop_path
        )
    except (OSError, RuntimeError, KeyError, EOFError) as exc:
        if not wanted:
            raise
        raise UnavailableWeights(_remedy(recipe, wanted, exc)) from exc
    if isinstance(wanted, Path):
        _all_came(recipe, made, wanted, drawn)
        return made, f"weights of {wanted.name}"
    return made, f"ImageNet weights ({source(recipe.encoder)})" if wanted else SCRATCH


def source(encoder: str) -> str:
    """Where the weights of an encoder are kept, for who has to carry them to a machine without network."""
    if encoder in FROM_TORCHVISION:
        return f"torchvision {encoder}"
    config = timm.get_pretrained_cfg(encoder)
    return (config.hf_hub_id or config.url or "nowhere") if config is not None else "nowhere"


def _all_came(recipe: Recipe, made: DTViT, file: Path, drawn: torch.Tensor) -> None:
    """timm passes over what a file lacks: a matrix that is still what chance gave it was not in there."""
    with torch.random.fork_rng():
        torch.set_rng_state(drawn)
        bare = dict(DTViT(recipe.encoder, recipe.location_outputs, recipe.head).encoder.named_parameters())
    missing = [name for name, p in made.encoder.named_parameters() if p.ndim > 1 and torch.equal(p, bare[name])]
    if missing:
        raise UnavailableWeights(_remedy(recipe, file, KeyError(f"{len(missing)} are missing, such as {missing[0]}")))


def _remedy(recipe: Recipe, wanted: bool | Path, problem: Exception) -> str:
    first_line = (str(problem).splitlines() or [type(problem).__name__])[0]
    if isinstance(wanted, Path):
        return (
            f"{wanted} gives no weights for {recipe.encoder} ({first_line}); "
            f"name a whole file made for that encoder ({source(recipe.encoder)}), or train with --pretrained none"
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
