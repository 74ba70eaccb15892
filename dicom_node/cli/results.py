"""Commands on results: reading one, taking one back, erasing a patient."""

from __future__ import annotations

import time
from pathlib import Path

import click

from dicom_node.cli.common import CONFIG, Commands, describe_checkpoint, find_series, load_config, opened
from dicom_node.errors import NotFound, NotPossible, StoreUnavailable

ASK = "\0"  # occurs in no Patient ID


@click.group(cls=Commands)
def report() -> None:
    """Show a Structured Report made by this node or another."""


@report.command("show")
@click.argument("named", metavar="FILE|SERIES")
@click.option("--html", "as_html", is_flag=True, help="Print HTML instead of text.")
@CONFIG
def report_show(named: str, as_html: bool, config_path: Path) -> None:
    """Print a report for a person to read: a FILE, or the newest one of SERIES (see `show`)."""
    from rich.console import Console

    from dicom_node.report import screen, text
    from dicom_node.report.readback import NotAReport, load
    from dicom_node.uids import is_valid

    is_file = Path(named).is_file()
    if not (is_file or named.isdecimal() or is_valid(named)):
        raise NotFound(f"{named}: no such file, and neither the number nor the UID of a series")
    try:
        ds = load(Path(named) if is_file else newest_report(named, config_path))
    except NotAReport as exc:
        raise NotFound(f"{named}: {exc}") from exc
    except OSError as exc:
        raise NotFound(f"{named}: cannot be read: {exc.strerror}") from exc
    console = Console()
    if console.is_terminal and not as_html:
        screen.show(console, ds)
    else:
        click.echo(text.html(ds) if as_html else text.render(ds))


def newest_report(named: str, config_path: Path) -> bytes:
    """The newest report of the named series; if it was withdrawn, standard error says so."""
    from dicom_node.store.overview import history
    from dicom_node.store.tables import JobState, ObjectKind

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


@click.command()
@click.argument("series")
@click.option("--why", required=True, help="The reason, in plain ASCII; it is part of the object that is sent.")
@CONFIG
def withdraw(series: str, why: str, config_path: Path) -> None:
    """Take back the newest result of SERIES: cancel what is undelivered, tell the destinations that have it."""
    from dicom_node.administering.withdrawing import withdraw as take_back

    checkpoint = describe_checkpoint(load_config(config_path).model.checkpoint)
    with opened(config_path) as (config, database, spool):
        device_uid = database.device_uid()
        with database.read() as connection:
            one = find_series(connection, series)
        said = take_back(
            database, spool, config, one, why=why, checkpoint=checkpoint, device_uid=device_uid, now=time.time()
        )
    click.echo(f"series {one.id}: {said}")


@click.command()
@click.option(
    "--patient",
    is_flag=False,
    flag_value=ASK,
    help="Patient ID as the scanner sent it; without a value you are asked, so it shows in no process list or history.",
)
@click.option("--study", help="Study Instance UID.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@CONFIG
def forget(patient: str | None, study: str | None, yes: bool, config_path: Path) -> None:
    """Erase one patient, or one study, from this node for good, and list what the PACS still holds.

    Work in progress on it is cancelled. What was delivered stays where it is, and so do backups of this machine.
    """
    from dicom_node.administering import present
    from dicom_node.administering.forgetting import Whom, erase, search

    if patient == ASK:
        patient = click.prompt("Patient ID")
    if (patient is None) == (study is None) or not (patient or study):
        raise NotPossible("give one of the two: --patient ID or --study UID")
    whom = Whom(patient, study)
    with opened(config_path) as (_, database, spool):
        found = search(database, whom)
        if not yes:
            others = f", and what has this ID in {len(found.former)} series of other patients" if found.former else ""
            if found.series or found.former:
                what = f"Erase {len(found.series)} series with all images and reports{others}, for good?"
            else:
                what = "It has no series here. Erase files of it that a crash left without a database row, for good?"
            click.confirm(what, abort=True)
        done = erase(database, spool, whom, now=time.time())
        present.forgotten(click.echo, done)
        if done.trouble:
            raise StoreUnavailable(f"not everything was erased: {'; '.join(done.trouble)}; run this again")
