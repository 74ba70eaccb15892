"""Commands on the checkpoint, and its judgement of files without a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from dicom_node.cli.common import CONFIG, JSON, Commands, describe_checkpoint, dicom_files, load_config
from dicom_node.errors import NotFound, NotPossible


@click.group(cls=Commands)
def model() -> None:
    """Inspect the checkpoint."""


@model.command("info")
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@CONFIG
@JSON
def model_info(checkpoint: Path | None, config_path: Path, as_json: bool) -> None:
    """Show what CHECKPOINT says of itself; by default the configured checkpoint, or the shipped one."""
    from dataclasses import asdict

    from rich.console import Console

    from dicom_node.administering import present

    if checkpoint is None and config_path.exists():
        checkpoint = load_config(config_path).model.checkpoint
    described = describe_checkpoint(checkpoint)
    known = {
        "file": str(described.path),
        "sha256": described.digest,
        "parameters": described.parameters,
        **asdict(described.metadata),
    }
    if as_json:
        click.echo(json.dumps(known, indent=2))
    else:
        present.checkpoint(Console(), known)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--sr", type=click.Path(dir_okay=False, path_type=Path), help="Write the Structured Report here.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Instead of the shipped one.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda", "mps"]))
@JSON
def classify(paths: tuple[Path, ...], sr: Path | None, checkpoint: Path | None, device: str, as_json: bool) -> None:
    """Classify the CT series in PATHS (files or folders): the node's own pipeline, without the network."""
    from rich.console import Console

    from dicom_node.administering import present
    from dicom_node.offline import classify as run

    results = run(dicom_files(paths), checkpoint=checkpoint, device=device)
    if not results:
        raise NotFound("no DICOM file in what was named")
    if sr is not None:
        reports = [r.report for r in results if r.report is not None]
        if len(reports) != 1:
            raise NotPossible(f"--sr takes the report of one series, and there are {len(reports)}; name one series")
        sr.write_bytes(reports[0])
    if as_json:
        click.echo(json.dumps([r.to_json() for r in results], indent=2))
    else:
        present.classified(Console(), results)
    sys.exit(0 if any(r.report is not None for r in results) else 1)
