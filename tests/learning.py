"""Small training runs, and small data for them: a disk for a head, a bright square for a bleed."""

import csv
import dataclasses
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from drawn import drawn_head
from PIL import Image

from dtvit.findings import LOCATIONS
from train.dataset.pictures import Pictures, stack
from train.learning import pretrained
from train.learning.batches import Batch, Totals
from train.learning.result import Source
from train.options import Settings
from train.progress import Say
from train.recipe import Recipe, read

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = Source("Disks and squares.", "none", ("drawn-1",))
PLAIN = {"augmentation": "none", "sampling": "plain", "tokens": 0, "first_lessons": 0, "precision": "fp32"}


def written(document: str, opening: str) -> str:
    """The Python in docs/`document` that begins with `opening`."""
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / document).read_text(), re.DOTALL)
    (found,) = (block for block in blocks if block.startswith(opening))
    return found


def recipe(**changes) -> Recipe:
    """The recipe for phantoms, with the smallest ViT and a few steps."""
    small = {"name": "drawn", "encoder": "test_vit", "batch": 16, "steps": 8, "evaluate_every": 4, "first_lessons": 10}
    return dataclasses.replace(read("phantom"), **{**small, **changes})


def settings(output: Path, **changes) -> Settings:
    """For `fit`, which wants its folder to be there."""
    output.mkdir(exist_ok=True, parents=True)
    return Settings(output=output, **{"device": "cpu", "threads": 1, **changes})


def quiet(_text: str) -> None:
    pass


class Stopped(Exception):
    pass


def stopping_at(step: int) -> Say:
    """Ends a run when it speaks of this step."""

    def say(text: str) -> None:
        if text.startswith(f"step {step},"):
            raise Stopped

    return say


def rows(folder: Path) -> list[dict[str, str]]:
    """The log of a run."""
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def losses(folder: Path) -> list[float]:
    return [float(row["training_loss"]) for row in rows(folder)]


def drawn(heads: int = 60) -> Pictures:
    return stack([drawn_head(number) for number in range(heads)])


def batch_of(presence, location) -> Batch:
    """Black pictures with these labels."""
    labels = torch.tensor(presence), torch.tensor(location)
    count = len(presence)
    return Batch(
        pictures=torch.zeros(count, 1, 224, 224),
        blood=torch.zeros(count, 1, 56, 56),
        traced=torch.ones(count, dtype=torch.bool),
        presence=labels[0],
        location=labels[1],
        totals=Totals(*(int((each >= 0).sum()) for each in labels), traced=count),
    )


def filed_heads(folder: Path, heads: int = 36) -> Path:
    """The same heads as files: the path of their manifest. Of each head one patient, with blood or without."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,patient_id,ich,location,split"]
    for number in range(heads):
        part = ("train", "train", "validation", "test")[number // 6 % 4]
        bleeds = number % 2
        pictures = drawn_head(number).pictures[:3] if bleeds else drawn_head(number).pictures[3:]
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / f"{number}-{i}.png")
            place = LOCATIONS[number % 3] if bleeds else ""
            lines.append(f"{number}-{i}.png,P{number},{bleeds},{place},{part}")
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def without_network(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """No name is known, no proxy is asked, and an empty folder is all that there is of weights fetched before."""

    def unknown(*_args, **_keywords):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(pretrained, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))


def command(*arguments: str, ranks: int = 1) -> list[str]:
    """`python -m train fit` with the smallest ViT; under torchrun where there is more than one rank."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    small = ["--set=encoder=test_vit", "--device=cpu", "--threads=1"]
    return [sys.executable, *start, "-m", "train", "fit", *small, *arguments]


def ran(*arguments: str, ranks: int = 1, **options) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments, ranks=ranks),
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m train` where nothing is installed but what training needs, run to its end."""
    missing = ["pydicom", "pydantic", "click", "sqlalchemy", "pynetdicom", "highdicom", "rich", "tensorboard"]
    code = (
        f"import sys\nfor name in {missing!r}: sys.modules[name] = None\n"
        "import train.making.synthetic\nfrom train.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    called = [sys.executable, "-c", code, *arguments]
    return subprocess.run(called, cwd=REPOSITORY, capture_output=True, text=True, check=False)
