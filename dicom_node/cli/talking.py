"""Commands that talk to a peer directly, without the node's database."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dicom_node.cli.common import CONFIG, dicom_files, load_config
from dicom_node.errors import NotFound, NotPossible, PeerError


@click.command()
@click.argument("peer")
@CONFIG
def echo(peer: str, config_path: Path) -> None:
    """Ask PEER, a peer of the configuration, whether it answers (C-ECHO)."""
    from dicom_node.network import scu

    config = load_config(config_path)
    took_s = scu.echo(config.peer(peer), config.node.ae_title)
    click.echo(f"{peer} answered in {took_s * 1000:.0f} ms")


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--to", "peer", help="Peer of the configuration  [default: this node itself]")
@CONFIG
def send(folder: Path, peer: str | None, config_path: Path) -> None:
    """Send all DICOM files under FOLDER (C-STORE) to a peer, or to this node."""
    from rich.progress import track

    from dicom_node.config import Peer
    from dicom_node.network import scu
    from dicom_node.status import in_words, is_warning

    config = load_config(config_path)
    node = config.node
    if peer is None and node.tls:
        raise NotPossible(
            "this node accepts only TLS: give it a [[peers]] block (tls = true, results = false) and send --to that"
        )
    host = "127.0.0.1" if node.bind in ("0.0.0.0", "::", "") else node.bind
    myself = Peer(name="this-node", host=host, port=node.port or 11112, ae_title=node.ae_title)
    items = [scu.outgoing(path) for path in dicom_files([folder])]
    if not items:
        raise NotFound(f"no DICOM file under {folder}")
    stored = 0
    sent = scu.send(config.peer(peer) if peer else myself, node.ae_title, items)
    try:
        for answer in track(sent, total=len(items), description="sending", transient=True):
            if answer.error is not None:
                click.echo(f"{answer.item.path}: {answer.error}", err=True)
                continue
            stored += 1
            if answer.status is not None and is_warning(answer.status):
                click.echo(f"{answer.item.path}: stored, with the warning {in_words(answer.status)}", err=True)
    except PeerError as exc:
        click.echo(f"dicom-node: {exc}", err=True)
    click.echo(f"{stored} of {len(items)} stored")
    sys.exit(0 if stored == len(items) else 1)
