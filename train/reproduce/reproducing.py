"""All rows, one after another, and the page that shows them; existing rows are not made again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from dtvit.wholefile import write_whole
from train import document
from train.completing import Made
from train.dataset import manifest
from train.dataset.manifest import Manifest
from train.document import Block, Heading, Image, Items, Table
from train.errors import UnusableData
from train.learning.state import claimed
from train.progress import Say
from train.reproduce import curves, planned, rows, subset, tables
from train.reproduce.papers import TO_KNOW, Papers
from train.reproduce.planned import V1, V2, YARDSTICKS, Row
from train.reproduce.rows import Reproduction

TITLE = "Dual-task Vision Transformer: both papers' experiments again"
SUBSET = "subset.csv"
WHAT = {
    V1: ("Fan et al., arXiv 2405.06814 v1", "v1 Tables 2 and 3", "v1 Figure 3", "v1 Figure 4"),
    V2: ("Fan et al., the later version", "v2 Tables 3 and 4", "v2 Figure 5", "v2 Figure 6"),
}


def data_of(path: Path, output: Path, *, quick: bool) -> Manifest:
    """The manifest to work on; with `quick` a small one made from it, in `output`.

    Raises UnusableData, also if `output` holds rows of other data: hours of work are not repeated unasked.
    """
    found = manifest.read(path)
    content = subset.as_csv(found) if quick else found.path.read_bytes()
    known = rows.digests(output)
    others = {of_manifest for of_manifest, _ in known} - {hashlib.sha256(content).hexdigest()}
    if others:
        raise UnusableData(
            f"{output} holds rows of other data than {path}, or of an older state of it (SHA-256 {others.pop()[:12]}); "
            "name another folder with --output"
        )
    if quick:
        write_whole(output / SUBSET, content)
        found = manifest.read(output / SUBSET)
    pictures = {of_pictures for _, of_pictures in known if of_pictures}
    if pictures - {manifest.pictures_digest(found)}:
        raise UnusableData(
            f"{output} holds rows of other pictures than {path} lists now: they have changed since; restore them, or "
            "name another folder with --output"
        )
    return found


def reproduce(work: Reproduction, plan: Sequence[Row], papers: Papers, command: str, say: Say) -> list[str]:
    """Make the missing rows, and write the page; returns names of rows that could not be made.

    If this is stopped, the page shows what is there; the same command continues. Raises UnusableData, UnusableRun.
    """
    with claimed(work.output):
        failed = rows.kept(work).complete(
            plan,
            lambda row, say: rows.make(work, row, say),
            say,
            show=lambda failed: write(work, plan, papers, command, failed),
        )
    return sorted(failed)


def write(work: Reproduction, plan: Sequence[Row], papers: Papers, command: str, failed: Mapping[str, str]) -> None:
    """The page, its tables as CSV, its figures as PNG."""
    kept = rows.kept(work)
    made = [(row, found) for row in plan if (found := kept.known(row)) is not None]
    blocks = _blocks(work, plan, made, papers, command, failed)
    for block in blocks:
        if isinstance(block, Table):
            write_whole(work.output / f"{block.name}.csv", block.to_csv())
        elif isinstance(block, Image):
            write_whole(work.output / block.file, block.png)
    write_whole(work.output / "rows.csv", tables.per_row(made))
    write_whole(work.output / "reproduce.md", document.markdown(blocks))
    write_whole(work.output / "reproduce.html", document.rendered(TITLE, blocks))


def _blocks(
    work: Reproduction,
    plan: Sequence[Row],
    made: Sequence[tuple[Row, Made]],
    papers: Papers,
    command: str,
    failed: Mapping[str, str],
) -> list[Block]:
    state = f"{len(made)} of {len(plan)} rows are made." if len(made) < len(plan) else f"All {len(plan)} rows are made."
    blocks: list[Block] = [
        Heading(1, TITLE),
        f"NOT FOR CLINICAL USE. {state} `{command}`, manifest {work.data.path.name}, SHA-256 {work.data.digest[:12]}.",
    ]
    if work.quick:
        blocks.append(
            "QUICK: small encoders, few slices, short training. This shows that everything runs, and how far 'slices "
            "mixed' and 'patients apart' differ; it is not a measure of either paper."
        )
    blocks += [Heading(2, "Before you read"), Items(tuple(TO_KNOW.items()))]
    blocks.append("Figures are of the test part, slice by slice: mean ± standard deviation over seeds (how many).")
    if failed:
        blocks += [Heading(2, "Rows that could not be made"), Items(tuple(failed.items()))]
    blocks += [Heading(2, "The data (v1 Table 1, v2 Table 1)"), tables.data(work.data, papers)]
    for chapter in (V1, V2):
        if any(row.chapter == chapter for row in plan):
            blocks += _chapter(chapter, work, plan, made, papers)
    if any(row.chapter == YARDSTICKS for row in plan):
        blocks += [Heading(2, "Yardsticks"), tables.yardsticks(made)]
    return [*blocks, Heading(2, "Sources"), *(papers.sources or ("No number of the papers is at hand.",))]


def _chapter(
    chapter: str, work: Reproduction, plan: Sequence[Row], made: Sequence[tuple[Row, Made]], papers: Papers
) -> list[Block]:
    title, names, first, second = WHAT[chapter]
    dtvit = planned.dtvit(chapter, quick=work.quick)
    lines = list(dict.fromkeys(row.line for row in plan if row.chapter == chapter))
    own = [line for line in lines if line[1] == dtvit]
    others = [line for line in lines if line[1] != dtvit]
    full = [(row, found) for row, found in made if row.line == (chapter, dtvit, True)]
    blocks: list[Block] = [
        Heading(2, f"{title} ({names})"),
        tables.models(f"{chapter}-augmentation", "DTViT without and with augmentation", own, made, papers, dtvit),
        tables.models(
            f"{chapter}-encoders", "Other encoders, with augmentation", [*own[-1:], *others], made, papers, dtvit
        ),
    ]
    for png, name, caption in (
        (curves.training(full), f"{chapter}-training.png", f"{first}: how the training of DTViT went"),
        (curves.confusions(full), f"{chapter}-confusion.png", f"{second}: what DTViT mistakes for what"),
    ):
        if png is not None:
            blocks.append(Image(name, png, caption))
    return blocks
