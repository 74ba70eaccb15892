"""Commands of `python -m train`, passed through unchanged."""

from __future__ import annotations

import sys

import click

TRAINING = {
    "train": ("fit", "Train a checkpoint from a recipe: v1, v2, robust, phantom, or one of your own."),
    "evaluate": ("evaluate", "Measure a checkpoint on labelled pictures, and set its thresholds."),
    "reproduce": ("reproduce", "Repeat the papers' tables and figures, and show beside them what they hide."),
    "export": ("export", "Write a checkpoint as ONNX or torch.export, and check the numbers."),
    "audit": ("audit", "Ask whether a checkpoint looks at blood, or at what happens to go with it."),
}
"""Commands of `python -m train`, with the same options: the module of `train.commands`, and the line --help shows."""


def _forward(name: str, module: str, summary: str) -> click.Command:
    @click.command(name, help=summary, add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def forward(arguments: tuple[str, ...]) -> None:
        from importlib import import_module

        sys.exit(import_module(f"train.commands.{module}").main(arguments, f"dicom-node {name}"))

    return forward


COMMANDS = tuple(_forward(name, *about) for name, about in TRAINING.items())
