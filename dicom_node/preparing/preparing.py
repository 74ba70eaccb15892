"""`dicom-node prepare FOLDER --out DIR`: pictures of every eligible head CT in FOLDER, and DIR/manifest.csv.

A second call makes only what is new, and tries what could not be read once more; a different preprocessing makes
everything again. The manifest lists what is in FOLDER now and is written last, completely or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dicom_node.config import Eligibility
from dicom_node.errors import NotFound, NotPossible, StoreUnavailable
from dicom_node.preparing import labelling, manifest
from dicom_node.preparing.finding import Instance, Series, find
from dicom_node.preparing.labelling import Label, Labels
from dicom_node.preparing.manifest import MANIFEST, Slice
from dicom_node.preparing.prepared import Prepared
from dicom_node.preparing.records import FORMAT, Kept, Record, Records, open_records


@dataclass(frozen=True)
class _Pictured:
    """What became of one series."""

    file: Path
    """One of its files, by which it is named."""
    refused: str | None = None
    unreadable: Mapping[Path, str] = field(default_factory=dict)
    is_new: bool = False
    slices: tuple[Slice, ...] = ()
    """Slices with a picture, whether the table of labels names them or not; none where the series is refused."""


def prepare(
    folder: Path,
    out: Path,
    *,
    labels: Path | None = None,
    key: Path | None = None,
    rules: Eligibility | None = None,
    mode: str = "robust",
    tell: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Make pictures and manifest; `tell` gets the progress, in lines without identity.

    Raises NotFound where there is no folder, NotPossible for unusable labels or an unsuitable key file,
    StoreUnavailable where nothing can be written.
    """
    from dtvit.brace import VERSIONS

    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder")
    if key is not None and key.absolute().is_relative_to(out.absolute()):
        raise NotPossible(f"{key} is inside {out}: the key tells whose pictures these are, so keep it elsewhere")
    known_labels = None if labels is None else labelling.read(labels).below(folder)
    tell(f"reading headers below {folder}")
    found, unreadable = find(folder, rules or Eligibility(), without=out)
    try:
        with open_records(out) as records:
            done = list(_pictured(records, found, known_labels, mode, tell))
            listed = [one for series in done for one in series.slices if one.label is not None or labels is None]
            lines = [manifest.line(records, one, VERSIONS[mode]) for one in listed]
            if lines:
                manifest.write(out / MANIFEST, lines)
            if key is not None and lines:
                manifest.write_key(key, listed, lines)
    except OSError as exc:
        raise StoreUnavailable(
            f"{out} cannot be written to ({exc.strerror or exc}); what is there is intact: mend this and run again"
        ) from exc
    for each in done:
        unreadable |= each.unreadable
    pictured = [each for each in done if each.refused is None]
    lost, unused = _without_picture(found, listed, known_labels)
    return Prepared(
        manifest=out / MANIFEST,
        slices=len(lines),
        patients=len({line["patient_id"] for line in lines}),
        series=len(pictured),
        made=sum(each.is_new for each in pictured),
        unlabelled=sum(len(each.slices) for each in done) - len(listed),
        unused_rows=unused,
        lost=len(lost),
        lost_bleeding=tuple(sorted(label.row for label in lost if label.ich == 1)),
        bleeding_by_series=sum(one.label is not None and one.label.ich == 1 and not one.alone for one in listed),
        refused={str(each.file.relative_to(folder)): each.refused for each in done if each.refused is not None},
        unreadable={str(path.relative_to(folder)): reason for path, reason in sorted(unreadable.items())},
    )


def _without_picture(
    found: Sequence[Series], listed: Sequence[Slice], labels: Labels | None
) -> tuple[list[Label], tuple[int, ...]]:
    """Labels of images that have a row of their own but no picture; and rows that name none of the images found."""
    if labels is None:
        return [], ()
    pictured = {one.instance.path for one in listed}
    images = [image for series in found for image in series.instances]
    own = [labels.of_image(image) for image in images if image.path not in pictured]
    used = {label.row for image in images if (label := labels.find(image)) is not None}
    return [label for label in own if label is not None], tuple(
        sorted({label.row for label in labels.of.values()} - used)
    )


def _pictured(
    records: Records, found: Sequence[Series], labels: Labels | None, mode: str, tell: Callable[[str], None]
) -> Iterator[_Pictured]:
    for number, one in enumerate(found, start=1):
        done = _of_series(records, one, labels, mode)
        if done.refused is None:
            before = "" if done.is_new else ", made before"
            if done.unreadable and not done.is_new:
                before += f"; {len(done.unreadable)} images tried again, and still not readable"
            tell(f"{number} of {len(found)} series: {len(done.slices)} slices{before}")
        yield done


def _of_series(records: Records, one: Series, labels: Labels | None, mode: str) -> _Pictured:
    file = one.instances[0].path
    if one.refused is not None:
        return _Pictured(file, refused=one.refused)
    record, is_new = _record(records, one, mode)
    by_id = {records.opaque("I", i.header.sop_instance_uid): i for i in one.instances}
    unreadable = {by_id[instance].path: reason for instance, reason in record.unreadable}
    slices = tuple(_slices(record, by_id, labels))
    refused = None
    if not slices:
        refused = (
            "none of its slices could be read"
            if len(unreadable) == len(one.instances)
            else "not a head by content: no brain was found inside a closed skull"
        )
    return _Pictured(file, refused, unreadable, is_new, slices)


def _record(records: Records, series: Series, mode: str) -> tuple[Record, bool]:
    """What was made of a series, earlier or now; and whether it was now."""
    from dicom_node.preparing.drawing import draw
    from dtvit.preprocess import preprocessing

    made_by = f"{preprocessing(mode)} prepare-{FORMAT}"
    patient, name = manifest.ids(records, series.instances[0])
    known = records.known(patient, name, made_by, series.fingerprint)
    if known is not None and _still_unreadable(records, series, known, mode):
        return known, False
    drawn = draw(series.instances, mode)
    record = Record(
        made_by,
        series.fingerprint,
        tuple(
            Kept(f"{number:03}.png", records.opaque("I", each.instance.header.sop_instance_uid), each.frame)
            for number, each in enumerate(drawn.pictures, start=1)
        ),
        _told(records, drawn.unreadable),
    )
    records.keep(patient, name, record, [each.pixels for each in drawn.pictures])
    return record, True


def _still_unreadable(records: Records, series: Series, known: Record, mode: str) -> bool:
    """Whether what could not be read then cannot be read now either, for the same reasons: a decoder may have been
    installed since. (A file that was repaired gives its series another fingerprint.)"""
    from dicom_node.preparing.drawing import faults

    before = {instance for instance, _ in known.unreadable}
    tried = [each for each in series.instances if records.opaque("I", each.header.sop_instance_uid) in before]
    return _told(records, faults(tried, mode)) == known.unreadable


def _told(records: Records, faults: Sequence[tuple[Instance, str]]) -> tuple[tuple[str, str], ...]:
    """As a record has them."""
    return tuple((records.opaque("I", each.header.sop_instance_uid), reason) for each, reason in faults)


def _slices(record: Record, by_id: Mapping[str, Instance], labels: Labels | None) -> Iterator[Slice]:
    for number, kept in enumerate(record.slices, start=1):
        one = by_id[kept.instance]
        label = None if labels is None else labels.find(one)
        alone = labels is not None and not kept.frame and labels.of_image(one) is not None
        yield Slice(kept, number, one, label, alone)
