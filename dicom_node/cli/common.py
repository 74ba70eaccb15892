"""What the commands share: options, the configuration, the node's memory, and the series that a person names."""

from __future__ import annotations

import io
import os
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
        except BrokenPipeError:  # who reads has seen enough; click knows
            raise
        except OSError as exc:  # a full disk, a folder that cannot be made: what no command has words of its own for
            from dicom_node.logs import trace

            told = ": ".join(str(one) for one in (exc.filename, exc.strerror) if one)
            click.echo(f"dicom-node: {told} ({trace(exc)})", err=True)
            ctx.exit(1)


def dicom_files(paths: tuple[Path, ...] | list[Path]) -> list[Path]:
    """All files under `paths` that have the DICOM prefix (PS3.10 7.1), in order.

    Raises NotFound where a file or folder cannot be read: who sends a folder on may delete it afterwards.
    """
    try:
        files = [file for path in paths for file in (_below(path) if path.is_dir() else [path])]
        return [file for file in files if file.is_file() and _has_prefix(file)]
    except OSError as exc:
        raise NotFound(f"{exc.filename or 'a file'} cannot be read: {exc.strerror}") from exc


def _below(folder: Path) -> list[Path]:
    """`Path.rglob` would pass over a folder that it cannot read."""

    def refuse(error: OSError) -> None:
        raise error

    return sorted(Path(parent, name) for parent, _, names in os.walk(folder, onerror=refuse) for name in names)


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


def dying_certificates(config: Config, *, now: float) -> list[str]:
    """A sentence for each certificate presented by this node that has expired or soon will."""
    from dicom_node.network import tls

    said = (tls.running_out(certificate, key, now=now) for certificate, key in sorted(config.shown_certificates()))
    return [sentence for sentence in said if sentence is not None]


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
