"""Commands that run the node, or check whether it could run."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from dicom_node.cli.common import (
    CONFIG,
    check_address,
    check_device,
    check_tls,
    dying_certificates,
    load_config,
    version_of,
)


@click.command()
@CONFIG
def serve(config_path: Path) -> None:
    """Receive, classify, report and deliver until SIGTERM or Ctrl-C."""
    from dicom_node import logs
    from dicom_node.service import Service

    config = load_config(config_path)
    logs.configure(config.logging.level)
    Service(config, version_of(config)).run()


@click.command(hidden=True)
@click.option("--owner", required=True)
def worker(owner: str) -> None:
    """The process beside `serve` that classifies; `serve` starts it and gives it its settings on standard input."""
    from dicom_node import logs
    from dicom_node.worker_process import given_settings, work

    config = given_settings()
    if config is None:
        return
    logs.configure(config.logging.level)
    work(config, owner)


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for the reports and pictures.",
)
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="For the synthetic patients.")
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), help="Instead of the shipped one.")
def demo(output: Path, seed: int, checkpoint: Path | None) -> None:
    """Send four synthetic patients through a node and a stand-in PACS on this machine, and show the reports."""
    from dicom_node.demo import run

    sys.exit(run(output, seed, checkpoint))


@click.command("check-config")
@CONFIG
def check_config(config_path: Path) -> None:
    """Check the configuration and the checkpoint it names; say what is wrong, or that all is well."""
    from dicom_node.store.opening import check

    config = load_config(config_path)
    version = version_of(config)
    check_address(config)
    check_tls(config)
    check_device(config)
    check(config)
    to = ", ".join(f"{p.name} ({p.ae_title} at {p.host}:{p.port})" for p in config.destinations) or "nobody"
    click.echo(f"{config_path}: good. {config.node.ae_title} on port {config.node.port}; results go to {to};")
    for sentence in (*config.gaps(), *dying_certificates(config, now=time.time())):
        click.echo(f"but {sentence}")
    click.echo(f"checkpoint {version.model_digest[:12]}, preprocessing {version.preprocessing}")
