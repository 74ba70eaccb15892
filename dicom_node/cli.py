"""The command line. Everything heavy is imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from dicom_node import __version__
from dicom_node.commands import (
    CONFIG,
    JSON,
    Commands,
    check_address,
    describe_checkpoint,
    dicom_files,
    find_series,
    load_config,
    newest_report,
    opened,
    version_of,
)
from dicom_node.errors import NotFound, NotPossible, StoreUnavailable


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Receives head CT, looks for intracerebral hemorrhage, sends a DICOM Structured Report back.

    NOT FOR CLINICAL USE.
    """


@main.command()
@CONFIG
def serve(config_path: Path) -> None:
    """Receive, classify, report, deliver; until SIGTERM or Ctrl-C."""
    from dicom_node import logs
    from dicom_node.service import Service

    config = load_config(config_path)
    logs.configure(config.logging.level)
    Service(config, config_path, version_of(config)).run()


@main.command(hidden=True)
@CONFIG
@click.option("--owner", required=True)
def worker(config_path: Path, owner: str) -> None:
    """The process beside `serve` that classifies; started by it."""
    from dicom_node import logs
    from dicom_node.worker_process import work

    config = load_config(config_path)
    logs.configure(config.logging.level)
    work(config, owner)


@main.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for reports and pictures.",
)
@click.option("--seed", type=int, default=7, show_default=True, help="Of the synthetic patients.")
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), help="Instead of the shipped one.")
def demo(output: Path, seed: int, checkpoint: Path | None) -> None:
    """Send four synthetic patients through a node and a stand-in PACS on this machine, and show the reports."""
    from dicom_node.demo import run

    sys.exit(run(output, seed, checkpoint))


@main.command("check-config")
@CONFIG
def check_config(config_path: Path) -> None:
    """Read the configuration and the checkpoint it names; say what is wrong, or that nothing is."""
    from dicom_node.store.opening import check

    config = load_config(config_path)
    version = version_of(config)
    check_address(config)
    check(config)
    to = ", ".join(peer.name for peer in config.destinations) or "nobody"
    click.echo(f"{config_path}: good. {config.node.ae_title} on port {config.node.port}; results go to {to};")
    click.echo(f"checkpoint {version.model_digest[:12]}, preprocessing {version.preprocessing}")


@main.command()
@click.argument("peer")
@CONFIG
def echo(peer: str, config_path: Path) -> None:
    """Ask PEER of the configuration whether it is there (C-ECHO)."""
    from dicom_node.network import scu

    config = load_config(config_path)
    took_s = scu.echo(config.peer(peer), config.node.ae_title)
    click.echo(f"{peer} answered in {took_s * 1000:.0f} ms")


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--to", "peer", help="Peer of the configuration  [default: this node itself]")
@CONFIG
def send(folder: Path, peer: str | None, config_path: Path) -> None:
    """Send all DICOM files under FOLDER (C-STORE) to a peer, or to this node."""
    from rich.progress import track

    from dicom_node.config import Peer
    from dicom_node.network import scu

    config = load_config(config_path)
    node = config.node
    myself = Peer(name="this-node", host="127.0.0.1", port=node.port or 11112, ae_title=node.ae_title)
    items = [scu.outgoing(path) for path in dicom_files([folder])]
    if not items:
        raise NotFound(f"no DICOM file under {folder}")
    failed = 0
    sent = scu.send(config.peer(peer) if peer else myself, node.ae_title, items)
    for answer in track(sent, total=len(items), description="sending", transient=True):
        if answer.error is not None:
            failed += 1
            click.echo(f"{answer.item.path}: {answer.error}", err=True)
    click.echo(f"{len(items) - failed} of {len(items)} stored")
    sys.exit(1 if failed else 0)


@main.command()
@CONFIG
@JSON
@click.option("--check", is_flag=True, help="For monitoring: exit 0 if all is well, 1 for a warning, 2 for an alarm.")
def status(config_path: Path, as_json: bool, check: bool) -> None:
    """Whether the node is at work, how many series are in which state, what waits how long, what is owed.

    With --check an alarm is: no `serve` gives a sign of life, a positive result is undelivered for ten minutes, the
    disk is too full to receive; a warning: a delivery was refused for good.
    """
    from dataclasses import asdict

    from rich.console import Console

    from dicom_node import present
    from dicom_node.store.overview import health, overview

    with opened(config_path) as (config, database, spool):
        now = time.time()
        with database.read() as connection:
            found = overview(connection, now=now)
        free_mib = spool.free_mib()
        level, wrong = health(found, has_room=spool.has_room())
    if as_json:
        more = {"health": level.name.lower(), "wrong": wrong, "free_mib": free_mib, "ae_title": config.node.ae_title}
        click.echo(json.dumps(asdict(found) | more, indent=2))
    else:
        present.overview(Console(), found, free_mib=free_mib, now=now, wrong=wrong)
    if check:
        sys.exit(level)


@main.command()
@click.argument("series")
@CONFIG
@JSON
def show(series: str, config_path: Path, as_json: bool) -> None:
    """Everything known of SERIES: its number in `status`, or a Study or Series Instance UID."""
    from rich.console import Console

    from dicom_node import present
    from dicom_node.store.overview import history

    with opened(config_path) as (_, database, _spool), database.read() as connection:
        known = history(connection, find_series(connection, series).id)
    if as_json:
        click.echo(json.dumps(known, indent=2, default=str))
    else:
        present.history(Console(), known)


@main.command()
@click.argument("series")
@click.option("--again", is_flag=True, help="Also make a new report where one was delivered; it supersedes the first.")
@click.option(
    "--keep",
    type=click.Choice(["first", "last"]),
    help="Of two objects with one SOP Instance UID and different pixels, the one to go by.",
)
@CONFIG
def retry(series: str, again: bool, keep: str | None, config_path: Path) -> None:
    """Try SERIES again: a delivery that was refused, a series that failed, was refused or not chosen."""
    from dicom_node.retrying import retry as try_again

    with opened(config_path) as (config, database, _), database.write() as connection:
        one = find_series(connection, series)
        said = try_again(connection, one, config.eligibility, again=again, keep=keep, now=time.time())
    click.echo(f"series {one.id}: {said}")


@main.command()
@click.argument("series")
@click.option("--why", required=True, help="The reason, in plain ASCII; it stands in the object that is sent.")
@CONFIG
def withdraw(series: str, why: str, config_path: Path) -> None:
    """Take the newest result of SERIES back: cancel what is undelivered, tell those who have it."""
    from dicom_node.withdrawing import withdraw as take_back

    metadata = describe_checkpoint(load_config(config_path).model.checkpoint).metadata
    with opened(config_path) as (config, database, spool):
        device_uid = database.device_uid()
        with database.write() as connection:
            one = find_series(connection, series)
            said = take_back(
                connection, spool, config, one, why=why, metadata=metadata, device_uid=device_uid, now=time.time()
            )
    click.echo(f"series {one.id}: {said}")


@main.command()
@click.argument("series")
@CONFIG
def release(series: str, config_path: Path) -> None:
    """Let the images of SERIES be deleted by age, although the node has committed to their safekeeping."""
    from dicom_node.store import commitment

    with opened(config_path) as (_, database, _spool), database.write() as connection:
        one = find_series(connection, series)
        released = commitment.release(connection, one.id, now=time.time())
    click.echo(f"series {one.id}: {released} images released")


@main.command()
@click.option("--patient", help="Patient ID, as the scanner sent it.")
@click.option("--study", help="Study Instance UID.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@CONFIG
def forget(patient: str | None, study: str | None, yes: bool, config_path: Path) -> None:
    """Erase one patient, or one study, from this node for good, and say what the PACS still holds.

    Work on it is cancelled. What was delivered stays where it is, and so do backups of this machine.
    """
    from dicom_node import present
    from dicom_node.forgetting import Whom, erase, search

    if (patient is None) == (study is None) or not (patient or study):
        raise NotPossible("name one of the two: --patient ID, or --study UID")
    whom = Whom(patient, study)
    with opened(config_path) as (_, database, spool):
        found = search(database, whom)
        if not yes:
            others = f", and what bears this number in {len(found.former)} of other patients" if found.former else ""
            click.confirm(
                f"Erase {len(found.series)} series with all images and reports{others}, for good?", abort=True
            )
        done = erase(database, spool, whom, now=time.time())
        present.forgotten(click.echo, done)
        if done.trouble is not None:
            raise StoreUnavailable(done.trouble)


@main.group()
def report() -> None:
    """Structured Reports, made here or elsewhere by this program."""


@report.command("show")
@click.argument("named", metavar="FILE|SERIES")
@click.option("--html", "as_html", is_flag=True, help="Print HTML instead of text.")
@CONFIG
def report_show(named: str, as_html: bool, config_path: Path) -> None:
    """Print a report as a person reads it: of a FILE, or the newest one of SERIES (see `show`)."""
    from rich.console import Console

    from dicom_node.report import screen, text
    from dicom_node.report.reading import NotAReport, load

    try:
        ds = load(Path(named) if Path(named).is_file() else newest_report(named, config_path))
    except NotAReport as exc:
        raise NotFound(f"{named}: {exc}") from exc
    console = Console()
    if console.is_terminal and not as_html:
        screen.show(console, ds)
    else:
        click.echo(text.html(ds) if as_html else text.render(ds))


@main.group()
def model() -> None:
    """The checkpoint."""


@model.command("info")
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@CONFIG
@JSON
def model_info(checkpoint: Path | None, config_path: Path, as_json: bool) -> None:
    """What CHECKPOINT says of itself; without one, the checkpoint of the configuration, or the shipped one."""
    from dataclasses import asdict

    from rich.console import Console

    from dicom_node import present

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
        present.mapping(Console(), known)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--sr", type=click.Path(dir_okay=False, path_type=Path), help="Write the Structured Report here.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Instead of the shipped one.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda", "mps"]))
@JSON
def classify(paths: tuple[Path, ...], sr: Path | None, checkpoint: Path | None, device: str, as_json: bool) -> None:
    """Classify the CT series in PATHS (files or folders): the node's own pipeline, without the network."""
    from rich.console import Console

    from dicom_node import present
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


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the pictures.")
@click.option("--mode", type=click.Choice(["robust", "paper"]), default="robust", show_default=True)
def brace(folder: Path, out: Path, mode: str) -> None:
    """Write before/after pictures of brace removal for the CT slices in FOLDER; a face may be known from them."""
    from dicom_node.brace_pictures import write

    done = write(folder, out, mode, click.echo)
    for name, reason in done.unreadable.items():
        click.echo(f"{name}: {reason}", err=True)
    click.echo(f"{done.pictures} slices of {done.series} series pictured in {out}; {done.flagged} with a doubt")
    sys.exit(0 if done.pictures else 1)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the pictures.")
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV with ich, location, and SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID or PatientID.",
)
@click.option(
    "--key", type=click.Path(dir_okay=False, path_type=Path), help="Write here whose pictures they are (mode 0600)."
)
@CONFIG
def prepare(folder: Path, out: Path, labels: Path | None, key: Path | None, config_path: Path) -> None:
    """Make pictures and a manifest to train on from the head CT in FOLDER; only what is new. See docs/data.md.

    Eligibility and brace removal are those of the configuration, where there is one.
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


TRAINING = {
    "train": ("fit", "Train a checkpoint from a recipe: v1, v2, robust, phantom, or one of your own."),
    "evaluate": ("evaluate", "Measure a checkpoint on labelled pictures, and set its thresholds."),
    "reproduce": ("reproduce", "Repeat the papers' tables and figures, and say beside them what they hide."),
    "export": ("export", "Write a checkpoint as ONNX or torch.export, and check the numbers."),
    "audit": ("audit", "Ask whether a checkpoint looks at blood, or at what happens to go with it."),
}
"""Commands of `python -m train`, whose options they take; the module of `train.commands`, and what --help says here."""


def _forward(name: str, module: str, summary: str) -> None:
    @main.command(name, help=summary, add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def forward(arguments: tuple[str, ...]) -> None:
        from importlib import import_module

        sys.exit(import_module(f"train.commands.{module}").main(arguments, f"dicom-node {name}"))


for _name, (_module, _summary) in TRAINING.items():
    _forward(_name, _module, _summary)
