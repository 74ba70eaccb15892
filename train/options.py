"""What a training run can be told, once, for both `python -m train fit` and `dicom-node train`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _help(text: str, choices: tuple[str, ...] | None = None) -> dict[str, Any]:
    return {"help": text, "choices": choices}


@dataclass(frozen=True)
class Options:
    """Every field is an option of the same name; its help text and its choices stand in the field's metadata."""

    output: Path = field(metadata=_help("folder of this run: pictures, state, log, checkpoint; run again to go on"))
    name: str = field(default="dtvit-tiny-phantom", metadata=_help("name of the checkpoint, and of its file"))
    data: Path | None = field(default=None, metadata=_help("folder of the synthetic pictures [OUTPUT/data]"))
    heads: int = field(default=1000, metadata=_help("synthetic heads to make, each with and without a bleed"))
    data_minutes: float | None = field(
        default=None, metadata=_help("stop making pictures after so many minutes, and train on those made")
    )
    processes: int | None = field(default=None, metadata=_help("processes that make pictures [one per core]"))
    preprocessing: str = field(
        default="mixed",
        metadata=_help(
            "brace removal of the pictures; mixed: half of the heads each", choices=("mixed", "robust", "paper")
        ),
    )
    encoder: str = field(
        default="vit_tiny_patch16_224", metadata=_help("encoder, any timm name that takes 224 x 224 pixels")
    )
    head: str = field(default="linear", metadata=_help("layers of the two heads", choices=("linear", "mlp")))
    start_from: Path | None = field(
        default=None, metadata=_help("checkpoint whose weights the run starts from [random weights]")
    )
    first_lessons: int = field(
        default=600,
        metadata=_help("steps on single patches before the first on whole pictures (ViT alone); 0 for none"),
    )
    tokens: int = field(
        default=64, metadata=_help("patches per picture seen in training, those of the head first; 0 sees all")
    )
    steps: int = field(default=12000, metadata=_help("optimiser steps"))
    batch: int = field(default=12, metadata=_help("pictures per step"))
    learning_rate: float = field(default=5e-4, metadata=_help("highest learning rate, after the warm-up"))
    weight_decay: float = field(default=0.05, metadata=_help("weight decay of AdamW, on matrices alone"))
    smoothing: float = field(default=0.02, metadata=_help("label smoothing of both heads"))
    drop_path: float = field(default=0.0, metadata=_help("stochastic depth of the encoder"))
    max_minutes: float | None = field(
        default=None, metadata=_help("end the training, with its whole schedule, within so many minutes")
    )
    evaluate_every: int = field(default=500, metadata=_help("steps between two evaluations on the validation heads"))
    save_every_s: float = field(
        default=60.0, metadata=_help("seconds between two saves of the state from which a killed run goes on")
    )
    seed: int = field(default=0, metadata=_help("of pictures, weights, order and augmentation"))
    device: str = field(default="auto", metadata=_help("auto, cpu, cuda, cuda:1 or mps"))
    precision: str = field(
        default="auto", metadata=_help("auto is bf16 where the device is fast in it", choices=("auto", "fp32", "bf16"))
    )
    threads: int | None = field(default=None, metadata=_help("CPU threads of torch [all]"))

    def __post_init__(self) -> None:
        for key in ("heads", "steps", "batch", "evaluate_every"):
            if getattr(self, key) < 1:
                raise ValueError(f"--{key.replace('_', '-')} must be at least 1, got {getattr(self, key)}")
        for key in ("data_minutes", "max_minutes"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ValueError(f"--{key.replace('_', '-')} must be more than 0, got {value}")

    @property
    def data_folder(self) -> Path:
        return self.data or self.output / "data"

    def recorded(self) -> dict[str, Any]:
        """What makes two runs the same run; folders, speed and time limits do not."""
        passing = {"output", "data", "data_minutes", "processes", "save_every_s", "device", "threads", "max_minutes"}
        fields = dataclasses.asdict(self) | {"start_from": self.start_from and self.start_from.name}
        return {key: value for key, value in fields.items() if key not in passing}


def parse(arguments: Sequence[str], program: str) -> Options:
    """Options from a command line; argparse ends the program with a message for one that is wrong."""
    parser = argparse.ArgumentParser(prog=program, description="Train DTViT.")
    parser.add_argument("--recipe", choices=("phantom",), required=True, help="phantom: synthetic heads alone")
    kinds = {"Path": Path, "Path | None": Path, "int": int, "int | None": int, "float": float, "float | None": float}
    for each in dataclasses.fields(Options):
        required = each.default is dataclasses.MISSING
        default = "" if required or each.default is None else f" [{each.default}]"
        parser.add_argument(
            f"--{each.name.replace('_', '-')}",
            type=kinds.get(str(each.type), str),
            required=required,
            default=None if required else each.default,
            choices=each.metadata["choices"],
            help=each.metadata["help"] + default,
        )
    chosen = vars(parser.parse_args(arguments))
    chosen.pop("recipe")
    try:
        return Options(**chosen)
    except ValueError as exc:
        parser.error(str(exc))
