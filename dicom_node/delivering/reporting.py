"""From findings to the objects that a job owes: the report, the picture, key objects, a withdrawal; each built once.

UIDs are derived from what an object is about, who makes it, and when: one made anew, because a restored older database
does not know the first, is another object. Only what was stored in the transaction that ends a step is ever sent. What
the objects say is up to `report`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, KeyObjectSelectionDocumentStorage, SecondaryCaptureImageStorage

from dicom_node import __version__, uids
from dicom_node.config import Peer, Results
from dicom_node.delivering.built import Built
from dicom_node.report import capture, keyobjects, picture, sr, wording
from dicom_node.report.carried import lossy_ratios, series_number
from dicom_node.report.context import Algorithm, Reference, ReportContext
from dicom_node.report.picture import Shown
from dicom_node.report.provenance import to_bytes
from dicom_node.store.jobs import Job, Record
from dicom_node.store.results import Version
from dicom_node.store.series import Series
from dicom_node.store.tables import CompletionRule, ObjectKind
from dtvit.checkpoint import Metadata
from dtvit.findings import Outcome, SeriesFindings

MANUFACTURER = "dicom-node project"
ALGORITHM = "DTViT"
EXTRAS = (ObjectKind.PICTURE, ObjectKind.DOCUMENT, ObjectKind.KEY_OBJECTS)
SERIES_AFTER_REPORT = {
    ObjectKind.PICTURE: 1,
    ObjectKind.KEY_OBJECTS: 2,
    ObjectKind.WITHDRAWAL: 2,
    ObjectKind.DOCUMENT: 3,
}
"""Series Number less the report's, `results.series_number`; config.toml says the same."""
REJECTIONS = {"quality": keyobjects.Rejection.QUALITY, "patient-safety": keyobjects.Rejection.PATIENT_SAFETY}
RULES_IN_WORDS: Mapping[str | None, str] = {
    CompletionRule.COUNT: "as many images arrived as the PACS holds",
    CompletionRule.COVERED: "the brain was covered from end to end, and no further image followed",
    CompletionRule.SILENCE: "no further image arrived within the configured time",
}


@dataclass(frozen=True)
class Maker:
    """Who makes the objects, and with what."""

    device_uid: str
    ae_title: str
    metadata: Metadata
    version: Version
    settings: Results
    precision: str | None = None
    """Precision of the model's arithmetic; None where none was done."""
    made_it: bool = True
    """Whether the model that `metadata` describes made the result; of another one, only what the result records is
    known."""

    def about(self, version: Version) -> Maker:
        """Who says something of a result of this version that is there already."""
        made_it = version.model_digest == self.version.model_digest
        return replace(self, version=version, precision=None, made_it=made_it)

    @property
    def algorithm(self) -> Algorithm:
        return Algorithm(ALGORITHM, __version__, MANUFACTURER, self._parameters())

    def _parameters(self) -> Mapping[str, str]:
        if not self.made_it:
            return {"weights sha256": self.version.model_digest, "preprocessing": self.version.preprocessing}
        slices, whole = self.metadata.slice_thresholds, self.metadata.series_thresholds
        low, high = self.metadata.window_hu
        return {
            "checkpoint": self.metadata.name,
            "weights sha256": self.version.model_digest,
            "encoder": self.metadata.encoder,
            **({} if self.precision is None else {"precision": self.precision}),
            "window": f"{low:g}..{high:g} HU",
            "preprocessing": self.version.preprocessing,
            "slice thresholds": f"absent below {slices.absent_below:g}, present at {slices.present_at:g}",
            "series thresholds": f"absent below {whole.absent_below:g}, present at {whole.present_at:g}",
        }


@dataclass(frozen=True)
class Run:
    """The result that objects are about."""

    study_uid: str
    series_uid: str
    number: int
    rule: str | None
    whole: bool
    """False where fewer images arrived than were announced."""
    at: float
    """When it is reported: run numbers repeat if a series was purged and comes back, or an older database was restored,
    and what is reported then differs from what a PACS has under the earlier UIDs."""
    replaces: bool = False
    """Whether an earlier result of the series was sent somewhere; asked for pictures alone, as a report names them."""


def owed_to(kind: ObjectKind, outcome: Outcome, told: Collection[str], *, destinations: Sequence[Peer]) -> list[str]:
    """The destinations that are owed such an object; `told`: those that an earlier result of the series went to.

    A destination told of hemorrhage is also told that there is none after all, even if it gets only positive ones.
    """
    return [
        peer.name
        for peer in destinations
        if kind in peer.objects and (outcome is Outcome.PRESENT or peer.name in told or not peer.only_positive)
    ]


def report(
    maker: Maker, run: Run, headers: Sequence[Dataset], findings: SeriesFindings, predecessors: Sequence[Reference]
) -> Built:
    """The Structured Report; `predecessors`: the newest first. Raises InconsistentSeries and UnusableFindings."""
    context = _context(maker, run, findings, ObjectKind.REPORT, sr.SR_CLASSES[0])
    context = replace(context, predecessors=tuple(predecessors))
    return _built(ObjectKind.REPORT, sr.build(headers, findings, context), context)


def with_limits(
    findings: SeriesFindings, headers: Sequence[Dataset], age_years: Iterable[int | None]
) -> SeriesFindings:
    """The findings, with what a reader must know about the images with these headers, and patients of these ages."""
    told = wording.child(findings, age_years), wording.thin(findings), wording.lossy(findings, lossy_ratios(headers))
    limits = tuple(limit for each in told for limit in each)
    return replace(findings, limits=limits)


def summary_picture(
    maker: Maker, run: Run, headers: Sequence[Dataset], findings: SeriesFindings, pictures: Mapping[int, Shown]
) -> Built:
    """The result as a Secondary Capture; `pictures`: index in `findings.slices` (of `picture.to_show`) -> slice."""
    context = _context(maker, run, findings, ObjectKind.PICTURE, SecondaryCaptureImageStorage)
    drawn = [findings.slices[i] for i in picture.to_show(findings) if i in pictures]
    page = _page(maker, run, headers, findings, pictures)
    return _built(ObjectKind.PICTURE, capture.build(page, drawn, headers, findings, context), context)


def summary_document(
    maker: Maker, run: Run, headers: Sequence[Dataset], findings: SeriesFindings, pictures: Mapping[int, Shown]
) -> Built:
    """The same page as an Encapsulated PDF."""
    context = _context(maker, run, findings, ObjectKind.DOCUMENT, EncapsulatedPDFStorage)
    page = _page(maker, run, headers, findings, pictures)
    return _built(ObjectKind.DOCUMENT, capture.document(page, headers, findings, context), context)


def _page(
    maker: Maker, run: Run, headers: Sequence[Dataset], findings: SeriesFindings, pictures: Mapping[int, Shown]
) -> Image.Image:
    return picture.compose(
        findings,
        pictures,
        algorithm=f"{ALGORITHM} {__version__}, {maker.metadata.name}, weights {maker.version.model_digest[:12]}",
        notice=maker.metadata.notice,
        thresholds=maker.metadata.slice_thresholds,
        run=run.number,
        replaces=run.replaces,
        series_number=series_number(headers[0]),
    )


def key_objects(maker: Maker, run: Run, headers: Sequence[Dataset], findings: SeriesFindings) -> Built | None:
    """A Key Object Selection of the positive slices; None where there are none."""
    context = _context(maker, run, findings, ObjectKind.KEY_OBJECTS, KeyObjectSelectionDocumentStorage)
    ds = keyobjects.positive(headers, findings, context)
    return None if ds is None else _built(ObjectKind.KEY_OBJECTS, ds, context)


def withdrawal(
    maker: Maker,
    run: Run,
    header: Dataset,
    findings: SeriesFindings,
    withdrawn: Sequence[Reference],
    *,
    why: str,
    title: keyobjects.Rejection,
    to: str,
    superseded: bool = False,
) -> Built:
    """Says that what was sent before is no longer valid, in the form that a PACS acts on (IHE IOCM).

    `superseded`: it belongs to earlier runs, and this run's result stands.
    """
    about = (title, to, why, withdrawn[0].sop_instance_uid)
    context = _context(maker, run, findings, ObjectKind.WITHDRAWAL, KeyObjectSelectionDocumentStorage, *about)
    made = keyobjects.rejection(withdrawn, header, context, why, title, superseded=superseded)
    return _built(ObjectKind.WITHDRAWAL, made, context)


def run_of(one: Series, job: Job | Record, *, at: float) -> Run:
    return Run(one.study_uid, one.series_uid, job.run, one.rule, one.whole is not False, at)


def _context(
    maker: Maker, run: Run, findings: SeriesFindings, kind: ObjectKind, sop_class_uid: str, *about: str
) -> ReportContext:
    """`about`: what distinguishes this object from others of its kind and run."""
    names = (
        maker.device_uid,
        run.series_uid,
        maker.version.model_digest,
        maker.version.preprocessing,
        str(run.number),
        repr(run.at),
        sop_class_uid,
        " ".join((kind, *about)),
    )
    whole = run.whole and findings.coverage.complete
    partial = "; ".join(findings.coverage.gaps) or "fewer images arrived than were announced"
    if findings.outcome is Outcome.NOT_EVALUATED:
        partial = "no image could be evaluated"  # what the images show, including gaps, is then unknown
    return ReportContext(
        device_uid=maker.device_uid,
        device_name=maker.ae_title,
        sop_instance_uid=uids.derived(*names, "instance"),
        series_instance_uid=uids.derived(*names, "series"),
        content_datetime=datetime.fromtimestamp(run.at, UTC).astimezone(),
        algorithm=maker.algorithm,
        completion_rule=RULES_IN_WORDS.get(run.rule, "by command"),
        series_number=maker.settings.series_number + SERIES_AFTER_REPORT.get(kind, 0),
        whole=whole,
        partial_because=None if whole else partial,
        run=run.number,
        notice=maker.metadata.notice if maker.made_it else None,
        title=maker.settings.title,
    )


def _built(kind: ObjectKind, ds: Dataset, context: ReportContext) -> Built:
    return Built(kind, str(ds.SOPClassUID), context.sop_instance_uid, context.series_instance_uid, to_bytes(ds))
