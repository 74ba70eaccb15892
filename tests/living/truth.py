"""What must be true: what was acknowledged, what of it counts, and how a reader at a PACS takes what lies there.

The rules are those of docs/architecture.md, "States". Knows nothing of the node's code or tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO

import pydicom
from living.images import HOME, STUDIES, Image, first

from dicom_node.report.sr import SR_CLASSES


@dataclass
class Truth:
    """What was acknowledged, and what of it counts, by the rules of docs/architecture.md, "States"."""

    versions: dict[str, list[Image]] = field(default_factory=dict)
    """SOP Instance UID -> what came under it, in order of first arrival."""
    counts: dict[str, set[Image]] = field(default_factory=dict)
    """SOP Instance UID -> the one that counts; two or more where they contradict each other."""
    study_of: dict[str, str] = field(default_factory=dict)
    """Series UID -> its study."""
    last_at: dict[Image, float] = field(default_factory=dict)
    """When it last came, in time that never jumps."""
    promised: set[Image] = field(default_factory=set)
    """What the node has committed to keeping."""
    plain: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(STUDIES, True))
    """Studies of which nothing was corrected, contradicted, taken back or erased: nothing excuses a missing report."""

    def arrived(self, image: Image, at: float) -> None:
        self.last_at[image] = at
        self.study_of.setdefault(image.series, image.study)
        before, counts = self.versions.setdefault(image.uid, []), self.counts.setdefault(image.uid, set())
        if image in counts:
            return
        same_pixels = all(one.pixels == image.pixels for one in counts)
        at_home = image == first(image.uid.rpartition(".")[0], image.number)
        for one in (image, *before) if before or not at_home else ():
            self.plain[one.study] = self.plain[HOME[one.series][0]] = False
        if image in before:
            if same_pixels:  # a correction is undone: the newest header counts
                self._counts_alone(image)
        elif same_pixels:
            before.append(image)
            self._counts_alone(image, corrected=len(before) > 1)
        else:
            before.append(image)
            counts.add(image)

    def _counts_alone(self, image: Image, *, corrected: bool = True) -> None:
        self.counts[image.uid] = {image}
        if corrected:
            self.study_of[image.series] = image.study

    def of_series(self, series_uid: str) -> set[Image]:
        return {one for counts in self.counts.values() for one in counts if one.series == series_uid}

    def patients_of(self, uid: str) -> set[str]:
        return {one.patient for one in self.counts.get(uid, ())}

    def decide(self, series_uid: str, keep: str) -> None:
        """A person says which of two images with other pixels counts."""
        for uid, counts in self.counts.items():
            order = [one for one in self.versions[uid] if one in counts]
            if any(one.series == series_uid for one in order[1:]):
                self.counts[uid] = {order[0] if keep == "first" else order[-1]}

    def drop(self, gone: Callable[[Image], bool]) -> None:
        self.promised = {one for one in self.promised if not gone(one)}
        for uid in list(self.versions):
            self.versions[uid] = [one for one in self.versions[uid] if not gone(one)]
            self.counts[uid] = {one for one in self.counts[uid] if not gone(one)}
            if not self.versions[uid]:
                del self.versions[uid], self.counts[uid]

    def spoil(self, *series_uids: str) -> None:
        for uid in series_uids:
            for one in (one for versions in self.versions.values() for one in versions if one.series == uid):
                self.plain[one.study] = False


@dataclass(frozen=True)
class Said:
    """One object at a PACS, as whoever reads it there understands it."""

    uid: str
    sop_class: str
    study: str
    patient: str
    images: frozenset[str]
    """SOP Instance UIDs of the CT images that it is about."""
    series: frozenset[str]
    replaces: frozenset[str]
    """What it supersedes, or, where it is a rejection, takes back."""
    is_rejection: bool

    @property
    def is_report(self) -> bool:
        return self.sop_class in SR_CLASSES


@lru_cache(maxsize=2048)
def said(content: bytes) -> Said:
    ds = pydicom.dcmread(BytesIO(content))
    seen = [
        (one, made)
        for one in ds.get("CurrentRequestedProcedureEvidenceSequence") or []
        for made in one.ReferencedSeriesSequence
    ]
    referenced = [(str(made.SeriesInstanceUID), item) for _, made in seen for item in made.ReferencedSOPSequence]
    images = [(uid, str(item.ReferencedSOPInstanceUID)) for uid, item in referenced if uid in HOME]
    others = {str(item.ReferencedSOPInstanceUID) for uid, item in referenced if uid not in HOME}
    earlier = {
        str(item.ReferencedSOPInstanceUID)
        for study in ds.get("PredecessorDocumentsSequence") or []
        for made in study.ReferencedSeriesSequence
        for item in made.ReferencedSOPSequence
    }
    rejects = str(ds.SOPClassUID) not in SR_CLASSES and not images and bool(others)
    return Said(
        str(ds.SOPInstanceUID),
        str(ds.SOPClassUID),
        str(ds.StudyInstanceUID),
        str(ds.PatientID),
        frozenset(uid for _, uid in images),
        frozenset(uid for uid, _ in images),
        frozenset(earlier | (others if rejects else set())),
        rejects,
    )


@dataclass
class Pacs:
    mood: str = "up"
    takes_3d: bool = True
    """Whether it stores Comprehensive 3D SR."""
    holds: dict[str, bytes] = field(default_factory=dict)
    ever: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID -> digest, of all that was ever sent: no UID may come with other bytes."""
    excused: set[str] = field(default_factory=set)
    """What a person was told to remove here, or to tell the users of."""

    def standing(self) -> list[Said]:
        """Reports that nothing here supersedes or takes back."""
        here = [said(content) for content in self.holds.values()]
        replaced = {(uid, one.study, one.patient) for one in here for uid in one.replaces}
        spoken = [one for one in here if not one.is_rejection and one.uid not in self.excused]
        return [one for one in spoken if (one.uid, one.study, one.patient) not in replaced]
