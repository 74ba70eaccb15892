"""What the commands share: options, the configuration, the node's memory, and the series that a person names."""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dicom_node.errors import ConfigError, NodeError, NotFound

if TYPE_CHECKING:
    from dicom_node.config import Config
    from dicom_node.store.database import Database
    from dicom_node.store.results import Version
    from dicom_node.store.series import Series
    from dicom_node.store.spool import Spool
    from dtvit.checkpoint import Checkpoint

CONFIG = click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("config.toml"),
    envvar="DICOM_NODE_CONFIG",
    show_default=True,
    help="Configuration file.",
)
MOST_DIGITS = 9  # of a series number; anything longer is part of a UID, and too large for a database integer
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


class Commands(click.Group):
    """Shows what the node raises on purpose as an error without a traceback; exit status 1."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with its whole first sentence; click itself cuts it off at the width of the terminal."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(limit=200)) for name, one in commands if one and not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a letter that the locale lacks must not end a command
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except NodeError as exc:
            click.echo(f"dicom-node: {exc}", err=True)
            ctx.exit(1)


def dicom_files(paths: tuple[Path, ...] | list[Path]) -> list[Path]:
    """All files under `paths` that have the DICOM prefix (PS3.10 7.1), in order."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [file for file in files if file.is_file() and _has_prefix(file)]


def _has_prefix(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def load_config(path: Path) -> Config:
    from dicom_node.configfile import load

    return load(path)


def describe_checkpoint(checkpoint: Path | None) -> Checkpoint:
    from dtvit.checkpoint import SHIPPED, UnusableCheckpoint, describe

    try:
        return describe(checkpoint or SHIPPED)
    except UnusableCheckpoint as exc:
        raise ConfigError(f"model.checkpoint: {exc}") from exc


def check_address(config: Config) -> None:
    """Raises ConfigError where `serve` could not listen on the configured address."""
    bind = config.node.bind
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(bind, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as exc:
        raise ConfigError(
            f"node.bind = {bind!r}: not an address of this machine ({exc.strerror}); 0.0.0.0 means all of them"
        ) from exc


def check_tls(config: Config) -> None:
    """Raises NodeError where the files of the node's own TLS, or of a peer's, cannot be used."""
    from dicom_node.network import requestor, scp, tls

    files = scp.rules_of(config).tls
    if files is not None:
        tls.ServerTls(files)
    for peer in config.peers:
        if peer.tls:
            requestor.tls_of(peer)


def dying_certificates(config: Config, *, now: float) -> list[str]:
    """A sentence for each certificate presented by this node that has expired or soon will."""
    from dicom_node.network import tls

    said = (tls.running_out(certificate, key, now=now) for certificate, key in sorted(config.shown_certificates()))
    return [sentence for sentence in said if sentence is not None]


def check_device(config: Config) -> None:
    """Raises ConfigError where the worker would find no such device; loads torch only for one that may be missing."""
    if config.model.device in ("auto", "cpu"):
        return
    from dtvit.inference import UnavailableDevice, choose_device

    try:
        choose_device(config.model.device)
    except UnavailableDevice as exc:
        raise ConfigError(f"model.device: {exc}") from exc


def version_of(config: Config) -> Version:
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


@contextmanager
def opened(config_path: Path, *, with_files: bool = True) -> Iterator[tuple[Config, Database, Spool]]:
    """The node's database, for a command beside a running (or stopped) service, and `with_files` its spool too."""
    from dicom_node.store.opening import open_existing

    config = load_config(config_path)
    database, spool = open_existing(config, with_files=with_files)
    try:
        yield config, database, spool
    finally:
        spool.close()
        database.close()


def newest_report(named: str, config_path: Path) -> bytes:
    """The newest report of the named series; if it was withdrawn, standard error says so."""
    from dicom_node.store.overview import history
    from dicom_node.tables import JobState, ObjectKind

    with opened(config_path) as (_, database, spool):
        with database.read() as connection:
            one = find_series(connection, named)
            known = history(connection, one.id)
        reports = [row for row in known["deliveries"] if row["kind"] == ObjectKind.REPORT]
        if not reports:
            raise NotFound(f"series {one.id} has no report; see dicom-node show {one.id}")
        made_by = next(run for run in known["runs"] if run["id"] == reports[-1]["job_id"])
        if made_by["state"] == JobState.WITHDRAWN:
            click.echo(f"WITHDRAWN, no longer valid: {made_by['reason']}", err=True)
        try:
            return spool.read(reports[-1]["file"])
        except FileNotFoundError as exc:
            raise NotFound(
                f"the report of series {one.id} is gone from the spool; make a new one with retry --again"
            ) from exc


def find_series(connection: Any, named: str) -> Series:
    """The series that a person means. Raises NotFound, also where a UID matches several."""
    from dicom_node.store import series

    if named.isdecimal():
        one = series.get(connection, int(named)) if len(named) <= MOST_DIGITS else None
        if one is None:
            raise NotFound(f"there is no series {named}; see dicom-node status")
        return one
    found = series.find(connection, named)
    if not found:
        raise NotFound(f"no series or study has the UID {named}")
    if len(found) > 1:
        numbers = ", ".join(str(one.id) for one in found)
        raise NotFound(f"this node has several series of this study: {numbers}; give the number of one")
    return found[0]
