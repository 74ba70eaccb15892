"""Commands beside a running node: what it holds, what became of a series, and trying that again."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from dicom_node.cli.common import CONFIG, JSON, dying_certificates, find_series, opened
from dicom_node.errors import NodeError, NotFound, NotPossible


@click.command()
@CONFIG
@JSON
@click.option("--check", is_flag=True, help="For monitoring: exit 0 if all is well, 1 for a warning, 2 for an alarm.")
def status(config_path: Path, as_json: bool, check: bool) -> None:
    """Show whether the node is running, how many series are in each state, how long they wait, and what is undelivered.

    With --check these are alarms: no `serve` shows signs of life; a positive result has been undelivered for ten
    minutes; a live series has no result ten minutes after its last image, or after it was to be judged again; the
    disk is missing, read-only or too full to receive; the database or the configuration cannot be read. These are
    warnings: a delivery was refused for good; a result has waited for a destination for an hour; a series failed
    within the last day; something is owed to a peer that is no longer a destination; a correction within the last
    day left a result under another patient or study; a TLS certificate of this node expires within two weeks; or,
    if monitoring.silent_h is set, no new image has arrived for so long.
    """
    try:
        level = _status(config_path, as_json)
    except NodeError as exc:
        if not check:
            raise
        click.echo(f"dicom-node: {exc}", err=True)
        level = 2
    if check:
        sys.exit(level)


def _status(config_path: Path, as_json: bool) -> int:
    """Prints it; returns the exit status for monitoring."""
    from dataclasses import asdict

    from rich.console import Console

    from dicom_node.administering import present
    from dicom_node.administering.health import Health, health
    from dicom_node.store.overview import last_series_from, overview

    with opened(config_path, with_files=False) as (config, database, spool):
        now = time.time()
        with database.read() as connection:
            found = overview(connection, now=now)
            senders = last_series_from(connection, now=now) if as_json else {}
        free_mib = spool.free_mib()
        level, wrong = health(
            found,
            no_room=spool.why_no_room(),
            destinations=[one.name for one in config.destinations],
            silent_s=config.monitoring.silent_h * 3600.0,
        )
    dying = dying_certificates(config, now=now)
    level, wrong = max(level, Health.WARNING if dying else Health.GOOD), [*wrong, *dying]
    if as_json:
        more = {"health": level.name.lower(), "wrong": wrong, "free_mib": free_mib, "ae_title": config.node.ae_title}
        click.echo(json.dumps(asdict(found) | more | {"last_series_from": senders}, indent=2))
    else:
        present.overview(Console(), found, free_mib=free_mib, now=now, wrong=wrong)
    return level


@click.command()
@click.argument("series")
@CONFIG
@JSON
def show(series: str, config_path: Path, as_json: bool) -> None:
    """Show all that is known about SERIES: its number in `status`, or a Study or Series Instance UID."""
    from rich.console import Console

    from dicom_node.administering import present
    from dicom_node.store.overview import history

    with opened(config_path, with_files=False) as (_, database, _spool), database.read() as connection:
        known = history(connection, find_series(connection, series).id)
    if as_json:
        click.echo(json.dumps(known, indent=2, default=str))
    else:
        present.history(Console(), known)


@click.command()
@click.argument("series", required=False)
@click.option("--refused", is_flag=True, help="Instead of one SERIES: everything that destinations refused for good.")
@click.option("--again", is_flag=True, help="Make a new report even if one was delivered; it supersedes that one.")
@click.option(
    "--keep",
    type=click.Choice(["first", "last"]),
    help="Which to use of two objects with the same SOP Instance UID but different pixels.",
)
@CONFIG
def retry(series: str | None, refused: bool, again: bool, keep: str | None, config_path: Path) -> None:
    """Try SERIES again: a delivery that was refused, or a series that failed, was refused or was not chosen."""
    from dicom_node.administering.retrying import retry as try_again
    from dicom_node.administering.retrying import retry_refused

    if refused == (series is not None) or (refused and (again or keep)):
        raise NotPossible("give either one SERIES or --refused alone")
    with opened(config_path) as (config, database, _), database.write() as connection:
        if series is None:
            click.echo(retry_refused(connection, now=time.time()))
            return
        one = find_series(connection, series)
        said = try_again(connection, one, config.eligibility, again=again, keep=keep, now=time.time())
    click.echo(f"series {one.id}: {said}")


@click.command()
@click.argument("peer")
@click.option("--yes", is_flag=True, help="Do not ask.")
@CONFIG
def cancel(peer: str, yes: bool, config_path: Path) -> None:
    """Cancel all that is owed to PEER, a destination that is gone for good and no longer in the configuration."""
    from dicom_node.store import cancelling, whereabouts

    with opened(config_path, with_files=False) as (config, database, _):
        if peer in {one.name for one in config.destinations}:
            raise NotPossible(f"{peer} is a destination in {config_path}; remove it there, restart serve, then cancel")
        with database.read() as connection:
            owed = whereabouts.owed(connection).get(peer, 0)
        if not owed:
            raise NotFound(f"nothing is owed to {peer}")
        if not yes:
            click.confirm(f"Never send {peer} the {owed} objects still owed to it?", abort=True)
        with database.write() as connection:
            cancelled = cancelling.cancel_for(connection, peer, now=time.time())
    click.echo(f"{cancelled} deliveries to {peer} cancelled")


@click.command()
@click.argument("series")
@CONFIG
def release(series: str, config_path: Path) -> None:
    """Let the images of SERIES be deleted by age although this node has committed to keeping them."""
    from dicom_node.store import commitment_given

    with opened(config_path) as (_, database, _spool), database.write() as connection:
        one = find_series(connection, series)
        released = commitment_given.release(connection, one.id, now=time.time())
    click.echo(f"series {one.id}: {released} images released")
