"""What commands print for people: tables of plain values, drawn by rich. Machines get the same values as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape  # a header may hold brackets: what came from outside is never markup
from rich.table import Table

from dicom_node.status import in_words, is_warning
from dicom_node.store.overview import Overview

if TYPE_CHECKING:
    from dicom_node.administering.forgetting import Forgotten
    from dicom_node.offline import Classified

OUTCOME_STYLE = {"present": "bold red", "absent": "green", "undetermined": "yellow", "not evaluated": "yellow"}
CHECKPOINT_FIGURES = ("training", "metrics", "statistics")


def age(seconds: float | None) -> str:
    """`4 s`, `12 min`, `5.0 h`, `3.2 d`."""
    if seconds is None:
        return "none"
    for size, unit in ((86400.0, "d"), (3600.0, "h")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _ahead(seconds: float) -> bool:
    """Whether this age is of another time; a second or two ahead are two machines' clocks."""
    return seconds < -60


def _ago(seconds: float) -> str:
    return "before the clock was set back" if _ahead(seconds) else f"{age(max(seconds, 0.0))} ago"


def overview(console: Console, found: Overview, *, free_mib: int | None, now: float, wrong: Sequence[str]) -> None:
    """`wrong`: what a person should look at."""
    for sentence in wrong:
        console.print(f"[bold red]{escape(sentence)}[/]", soft_wrap=True)  # for monitoring: one line each
    if found.serving_since is not None:
        for_s = now - found.serving_since
        console.print(f"serving since {_ago(for_s)}" if _ahead(for_s) else f"serving for {age(max(for_s, 0.0))}")
    states = Table("state", "series", title="Series by state", title_justify="left")
    for name, count in sorted(found.by_state.items()):
        states.add_row(name, str(count))
    console.print(states)
    console.print(f"last new image: {age(found.last_image_s)}{' ago' if found.last_image_s is not None else ''}")
    console.print(
        f"oldest not yet reported: {age(found.oldest_waiting_s)}; "
        f"received or in progress: {found.waiting_live} live, {found.waiting_backlog} backlog; "
        f"longest-waiting live series: {age(found.oldest_live_s)}"
    )
    console.print(
        f"undelivered: {found.undelivered} (oldest {age(found.oldest_undelivered_s)}, "
        f"oldest positive {age(found.oldest_undelivered_positive_s)}; refused for good: {found.failed_deliveries})"
    )
    if found.uncommitted:
        console.print(f"delivered, storage commitment not yet confirmed: {found.uncommitted}")
    console.print("free disk: unknown" if free_mib is None else f"free disk: {free_mib} MiB")
    if found.newest:
        newest = Table("id", "state", "images", "run", "outcome", "last change", "reason", title="Newest series")
        newest.title_justify = "left"
        for line in found.newest:
            last = _ago(now - line.last_at)
            outcome = line.outcome or ""
            newest.add_row(
                str(line.id),
                line.state,
                str(line.instances),
                str(line.run),
                f"[{OUTCOME_STYLE.get(outcome, 'none')}]{outcome}[/]",
                last,
                escape(line.reason or ""),
            )
        console.print(newest)


def forgotten(echo: Callable[[str], None], done: Forgotten) -> None:
    erased = done.erased
    echo(f"erased: {len(erased.series)} series, {erased.images} images, {erased.objects} objects made of them")
    if erased.former:
        numbers = ", ".join(map(str, erased.former))
        echo(f"kept: series {numbers}, whose images now belong to another patient; what had this ID in them is gone")
    if done.orphans:
        echo(f"erased: {done.orphans} files that a crash had left without a database row")
    for held in done.held:
        sure = "has" if held.certain else "may have"
        echo(f"{held.destination} {sure} a {held.kind}: study {held.study_uid}, SOP instance {held.sop_instance_uid}")
    if done.came:
        echo(f"{done.came} series of the same arrived meanwhile: stop their sender, then run this again")
    echo("not erased: what destinations hold, backups of this machine, and what scanners send from now on")


def history(console: Console, known: Mapping[str, Any]) -> None:
    one = known["series"]
    console.print(
        f"[bold]series {one['id']}[/]: {one['state']}, {one['instances']} images from {escape(one['calling_aet'])}"
    )
    if one["priority"]:
        console.print(
            "backlog: live series go first; for the rule and how to change it, see [backlog] in config.toml",
            markup=False,
        )
    if one["reason"]:
        console.print(f"reason: {one['reason']}", markup=False)
    console.print(f"Study Instance UID  {one['study_uid']}\nSeries Instance UID {one['series_uid']}")
    for run in known["runs"]:
        console.print(f"\n[bold]run {run['run']}[/] (job {run['id']}): {run['state']}, tries {run['tries']}")
        if run["findings"]:
            findings(console, run["findings"])
        elif run["reason"]:
            console.print(run["reason"], markup=False)
    if known["deliveries"]:
        owed = Table("object", "to", "state", "tries", "last answer", title="Deliveries", title_justify="left")
        for row in known["deliveries"]:
            answer = when(row["delivered_at"]) if row["delivered_at"] else row["last_error"] or ""
            if row["delivered_at"] and row["last_status"] and is_warning(row["last_status"]):
                answer = f"{answer}, with the warning {in_words(row['last_status'])}"
            if row["state"] == "waiting" and row["tries"]:
                answer = f"{answer}; next try at {when(row['next_at'])}"
            owed.add_row(
                row["kind"], row["destination"] or "-", row["state"] or "-", str(row["tries"] or 0), escape(answer)
            )
        console.print(owed)
    zone = datetime.now(UTC).astimezone().strftime("%Z")
    events = Table("at", "what", "detail", title=f"History (times in {zone})", title_justify="left")
    for event in known["events"]:
        events.add_row(when(event["at"]), event["kind"], escape(event["detail"] or ""))
    console.print(events)


def findings(console: Console, found: Mapping[str, Any]) -> None:
    """Findings as a mapping (`dataclasses.asdict` of SeriesFindings, or the same read back from the database)."""
    outcome = str(found["outcome"])
    output = "" if found["presence"] is None else f", output {found['presence']:.1%}"
    place = f", {found['location']}" if found["location"] else ""
    console.print(f"[{OUTCOME_STYLE[outcome]}]intracerebral hemorrhage: {outcome}[/]{place}{output}")
    for reason in (*found["reasons"], *found.get("limits", ())):
        console.print(f"  {reason}", markup=False)
    console.print(slices(found["slices"]))


def slices(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("image", "position", "region", "output", "outcome")
    for row in rows:
        position = "" if row["position_mm"] is None else f"{row['position_mm']:.1f} mm"
        output = "" if row["presence"] is None else f"{row['presence']:.1%}"
        outcome = str(row["outcome"])
        said = escape(row["left_out"] or "") or f"[{OUTCOME_STYLE[outcome]}]{outcome}[/]"
        number = "?" if row["instance_number"] is None else str(row["instance_number"])
        if row["frame"]:
            number += f" frame {row['frame']}"
        table.add_row(number, position, str(row["region"]), output, said)
    return table


def when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def checkpoint(console: Console, known: Mapping[str, Any]) -> None:
    """What a checkpoint says of itself, less the hundreds of figures of its training."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a digest is compared as a whole
    for key, value in known.items():
        if key in CHECKPOINT_FIGURES:
            continue
        if isinstance(value, Mapping):
            value = "\n".join(f"{k}: {v}" for k, v in value.items())
        elif isinstance(value, list | tuple):
            value = ("\n" if key == "limits" else ", ").join(map(str, value))
        table.add_row(key.replace("_", " "), escape(str(value)))
    console.print(table)
    console.print(
        f"not shown: {', '.join(CHECKPOINT_FIGURES)}; see --json, or the card that dicom-node export writes",
        soft_wrap=True,
    )


def classified(console: Console, results: Sequence[Classified]) -> None:
    for result in results:
        ended = "" if result.findings is not None else f": {result.state}"  # else it would say "delivered", to nobody
        console.print(f"\n[bold]series {result.series_uid}[/]{ended}")
        if result.findings is not None:
            findings(console, result.findings)
        elif result.reason:
            console.print(result.reason, markup=False)
