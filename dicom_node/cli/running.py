"""Commands that run the node, or check whether it could run."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicom_node.cli.common import CONFIG, describe_checkpoint, dying_certificates, load_config
from dicom_node.errors import ConfigError

if TYPE_CHECKING:
    from dicom_node.config import Config
    from dicom_node.store.results import Version


@click.command()
@CONFIG
def serve(config_path: Path) -> None:
    """Receive, classify, report and deliver until SIGTERM or Ctrl-C."""
    from dicom_node import logs
    from dicom_node.serving.service import Service

    config = load_config(config_path)
    logs.configure(config.logging.level)
    Service(config, _version_of(config)).run()


@click.command(hidden=True)
@click.option("--owner", required=True)
def worker(owner: str) -> None:
    """The process beside `serve` that classifies; `serve` starts it and gives it its settings on standard input."""
    from dicom_node import logs
    from dicom_node.working.process import given_settings, work

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
    version = _version_of(config)
    _check_address(config)
    _check_tls(config)
    _check_device(config)
    check(config)
    to = ", ".join(f"{p.name} ({p.ae_title} at {p.host}:{p.port})" for p in config.destinations) or "nobody"
    click.echo(f"{config_path}: good. {config.node.ae_title} on port {config.node.port}; results go to {to};")
    for sentence in (*config.gaps(), *dying_certificates(config, now=time.time())):
        click.echo(f"but {sentence}")
    click.echo(f"checkpoint {version.model_digest[:12]}, preprocessing {version.preprocessing}")


def _check_address(config: Config) -> None:
    """Raises ConfigError where `serve` could not listen on the configured address."""
    bind = config.node.bind
    try:
        found = socket.getaddrinfo(bind or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as exc:
        raise ConfigError(
            f"node.bind = {bind!r}: not an address of this machine ({exc.strerror}); 0.0.0.0 means all of them"
        ) from exc


def _check_tls(config: Config) -> None:
    """Raises NodeError where the files of the node's own TLS, or of a peer's, cannot be used."""
    from dicom_node.network import requestor, scp, tls

    files = scp.rules_of(config).tls
    if files is not None:
        tls.ServerTls(files)
    for peer in config.peers:
        if peer.tls:
            requestor.tls_of(peer)


def _check_device(config: Config) -> None:
    """Raises ConfigError where the worker would find no such device; loads torch only for one that may be missing."""
    if config.model.device in ("auto", "cpu"):
        return
    from dtvit.inference import UnavailableDevice, choose_device

    try:
        choose_device(config.model.device)
    except UnavailableDevice as exc:
        raise ConfigError(f"model.device: {exc}") from exc


def _version_of(config: Config) -> Version:
    """What results will depend on; rejects a checkpoint that was not trained for the configured preprocessing."""
    from dicom_node.store.results import Version
    from dtvit.preprocess import mode_for
    from dtvit.preprocess import offered as offered_by

    described = describe_checkpoint(config.model.checkpoint)
    trained_for = described.metadata.preprocessing
    offered = [version for version in offered_by(config.model.brace_removal) if version in trained_for]
    if not offered:
        right = mode_for(trained_for)
        remedy = f"set it to {right!r}" if right else "no setting suits it: retrain it with dicom-node train"
        raise ConfigError(
            f"the checkpoint was trained for {', '.join(trained_for)}, which is not what "
            f"model.brace_removal = {config.model.brace_removal!r} produces; {remedy}"
        )
    return Version(described.digest, offered[0])
