"""Commands that write pictures of head CT: to show brace removal, and to train on."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dicom_node.cli.common import CONFIG, load_config


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the pictures.")
@click.option("--mode", type=click.Choice(["robust", "paper"]), default="robust", show_default=True)
def brace(folder: Path, out: Path, mode: str) -> None:
    """Write before/after pictures of brace removal for the CT slices in FOLDER; they may show a recognisable face."""
    from dicom_node.brace_pictures import write

    done = write(folder, out, mode, click.echo)
    for name, reason in done.unreadable.items():
        click.echo(f"{name}: {reason}", err=True)
    click.echo(f"{done.pictures} slices of {done.series} series pictured in {out}; {done.flagged} with a doubt")
    sys.exit(0 if done.pictures else 1)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the pictures.")
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV with ich, location, and path, SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID or PatientID.",
)
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write here which picture is whose (mode 0600).",
)
@CONFIG
def prepare(folder: Path, out: Path, labels: Path | None, key: Path | None, config_path: Path) -> None:
    """Make training pictures and a manifest from the head CT in FOLDER; only what is new is made. See docs/data.md.

    Eligibility and brace removal follow the configuration, if there is one.
    """
    from dicom_node import preparing
    from dicom_node.config import Config

    config = load_config(config_path) if config_path.exists() else Config()
    done = preparing.prepare(
        folder,
        out,
        labels=labels,
        key=key,
        rules=config.eligibility,
        mode=config.model.brace_removal,
        tell=lambda line: click.echo(line, err=True),
    )
    for line in done.troubles:
        click.echo(line, err=True)
    click.echo(done.summary)
    sys.exit(0 if done.slices else 1)
