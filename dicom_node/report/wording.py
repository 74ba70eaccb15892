"""The sentences of a report, and its colours: one place, so that SR, text and picture say the same in the same words.

The first sentence answers the question; the next ones say how sure, in which images, and what was not looked at.
Plain ASCII throughout: it reads the same in every viewer, whatever the character set of the patient's name.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dtvit.findings import LOCATIONS, REASONS_TOLD, RUN_LENGTH, Outcome, Region, SeriesFindings, SliceFinding
from dtvit.slabs import SLAB_MM

NOT_ASSESSED = (
    "Looks for intracerebral hemorrhage only (blood within cerebrum, cerebellum or brain stem). Does not exclude "
    "subdural, epidural, subarachnoid or isolated intraventricular hemorrhage, or any other disease."
)

COLOURS = {
    Outcome.PRESENT: (213, 94, 0),
    Outcome.ABSENT: (86, 180, 233),
    Outcome.UNDETERMINED: (240, 228, 66),
    Outcome.NOT_EVALUATED: (187, 187, 187),
}
"""RGB, from Okabe and Ito (2008): distinguishable with any colour vision, and never the only sign."""

OUTSIDE = (Region.BELOW_BRAIN, Region.ABOVE_BRAIN, Region.NO_HEAD)
"""Where leaving a slice out costs nothing."""

FIRST = 3  # slices to look at before all others
ADULT_YEARS = 18

_CONTROL = re.compile(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]")


def plain(text: str) -> str:
    """ASCII: accents removed, anything else a question mark, so that all viewers show the same. Line ends stay."""
    drawn_off = unicodedata.normalize("NFKD", text)
    letters = "".join(letter for letter in drawn_off if not unicodedata.combining(letter))
    return _CONTROL.sub(" ", letters).encode("ascii", "replace").decode("ascii")


def percent(probability: float) -> str:
    """`97 %`; never 0 or 100, which no classifier's output means."""
    value = 100.0 * probability
    if value < 1.0:
        return "under 1 %"
    return "over 99 %" if value > 99.0 else f"{value:.0f} %"


def label(finding: SliceFinding) -> str:
    """How a reader finds it in the viewer: the instance number, and the frame of a multi-frame image; the position of
    one without a number."""
    if finding.instance_number is None and finding.frame is None and finding.position_mm is not None:
        return f"at {finding.position_mm:.1f} mm"
    number = "?" if finding.instance_number is None else str(finding.instance_number)
    return number if finding.frame is None else f"{number}/{finding.frame}"


def labels(findings: Iterable[SliceFinding]) -> str:
    """`12-17, 19`: instance numbers with runs joined; frames as `frames 3-5 of image 1`."""
    findings = list(findings)
    if findings and all(f.frame is not None for f in findings):
        of_image: dict[str, list[SliceFinding]] = {}
        for f in findings:
            of_image.setdefault(f.sop_instance_uid, []).append(f)
        return ", ".join(map(_frames, of_image.values()))
    numbers = [f.instance_number for f in findings if f.instance_number is not None and f.frame is None]
    if len(numbers) == len(findings):
        often = {n: count for n, count in sorted(Counter(numbers).items()) if count > 1}
        once = _runs([n for n in numbers if n not in often])
        return ", ".join([*([once] if once else []), *(f"{n} ({count} images)" for n, count in often.items())])
    named = [label(f) for f in findings if f.instance_number is not None]
    return ", ".join([*named, *_without_number([f for f in findings if f.instance_number is None])])


def _without_number(findings: Sequence[SliceFinding]) -> Iterator[str]:
    """`3 without a number of their own, at 5.0 to 15.0 mm`."""
    if not findings:
        return
    places = sorted({f"{f.position_mm:.1f}" for f in findings if f.position_mm is not None}, key=float)
    everywhere = all(f.position_mm is not None for f in findings)
    where = f", at {' to '.join(dict.fromkeys((places[0], places[-1])))} mm" if everywhere else ""
    yield f"{len(findings)} without a number of {'its' if len(findings) == 1 else 'their'} own{where}"


def _frames(of_one_image: Sequence[SliceFinding]) -> str:
    number = of_one_image[0].instance_number
    which = _runs([f.frame for f in of_one_image if f.frame is not None])
    return f"frame{'s' if len(of_one_image) > 1 else ''} {which} of image {'?' if number is None else number}"


def _runs(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def highest(findings: SeriesFindings) -> SliceFinding | None:
    """The evaluated slice with the highest output."""
    return max(findings.evaluated, key=lambda s: s.presence or 0.0, default=None)


def best(findings: SeriesFindings) -> tuple[SliceFinding, ...]:
    """The slices to look at first, highest output first; none where nothing suggests hemorrhage."""
    doubtful = [s for s in findings.evaluated if s.outcome is not Outcome.ABSENT]
    pool = (findings.positive or doubtful) if findings.outcome is not Outcome.ABSENT else ()
    return tuple(sorted(pool, key=lambda s: -(s.presence or 0.0))[:FIRST])


def headline(findings: SeriesFindings) -> str:
    """The answer alone, in capitals: fits a line."""
    if findings.outcome is Outcome.PRESENT:
        place = where(findings)
        return f"INTRACEREBRAL HEMORRHAGE: PRESENT{f', {place.upper()}' if place else ''}"
    if findings.outcome is Outcome.ABSENT:
        return "INTRACEREBRAL HEMORRHAGE: ABSENT"
    if findings.outcome is Outcome.UNDETERMINED:
        return "INTRACEREBRAL HEMORRHAGE: UNDETERMINED"
    return "NOT EVALUATED: no statement on hemorrhage"


def in_short(findings: SeriesFindings) -> str:
    """The few words right below the answer; empty where the answer says it all."""
    if findings.outcome is Outcome.UNDETERMINED:
        return "neither present nor absent"
    if findings.outcome is Outcome.NOT_EVALUATED:
        return "no statement on hemorrhage"
    return where(findings)


def where(findings: SeriesFindings) -> str:
    """`deep`, or `deep, also lobar`: a place other than the likeliest counts from two images on."""
    if not findings.location:
        return ""
    places = by_location(findings.positive)
    others = [name for name, seen in places.items() if name != findings.location and len(seen) >= RUN_LENGTH]
    return f"{findings.location}, also {' and '.join(others)}" if others else findings.location


def series_description(findings: SeriesFindings, run: int = 1) -> str:
    """A list of series shows about 20 characters: they give the result, and show which of two reports is newer."""
    words = {
        Outcome.PRESENT: f"ICH PRESENT {findings.location or ''}".strip(),
        Outcome.ABSENT: "ICH ABSENT",
        Outcome.UNDETERMINED: "ICH UNDETERMINED",
        Outcome.NOT_EVALUATED: "NOT EVALUATED",
    }
    return f"{version(run)}: {words[findings.outcome]}"


def version(run: int) -> str:
    """`AI`, and `AI v2` from the second result on: viewers that know nothing of predecessors show both."""
    return "AI" if run == 1 else f"AI v{run}"


def conclusion(findings: SeriesFindings, *standing: str, series_number: str | None = None) -> tuple[str, ...]:
    """The whole answer, one sentence per line: what, how sure and where, why not more, what was looked at.

    `standing`: what to know about the report itself (see `standing`), said right after the answer. `series_number`: of
    the images, whose numbers are those of that series.
    """
    looked_at = counts(findings, series_number)
    lines = (headline(findings), *standing, *_certainty(findings), *_limits(findings), looked_at)
    return tuple(f"{line}." for line in lines)


def standing(findings: SeriesFindings, *, run: int, replaces: bool, partial_because: str | None) -> tuple[str, ...]:
    """Which version this is and whether it is partial, where there is anything to say; without full stops."""
    lines = []
    if run > 1 or replaces:
        lines.append(f"Version {run}{', replaces the earlier report of this series' if replaces else ''}")
    if partial_because and partial_because not in "; ".join(findings.reasons):
        lines.append(f"Partial report: {partial_because.rstrip('. ')}")
    return tuple(lines)


def _certainty(findings: SeriesFindings) -> list[str]:
    top = highest(findings)
    if findings.presence is None or top is None:
        return []
    at_most = f"{images([top])} ({percent(top.presence or 0.0)})"
    output = f"Output {percent(findings.presence)}"
    if findings.outcome is Outcome.ABSENT:
        return [f"The algorithm found no intracerebral hemorrhage. {output}, highest in {at_most}"]
    if findings.outcome is Outcome.UNDETERMINED:
        return [f"Neither present nor absent. {output}, highest in {at_most}"]
    seen = f"seen in {images(findings.positive)}, " if findings.positive else ""
    lines = [f"{output}, {seen}highest in {at_most}"]
    if findings.location_probabilities:
        shares = sorted(zip(findings.location_probabilities, LOCATIONS, strict=True), reverse=True)
        lines.append("Location outputs: " + ", ".join(f"{name} {percent(p)}" for p, name in shares))
    places = by_location(findings.positive)
    if len(places) > 1:
        said = "; ".join(f"{name} in {images(seen)}" for name, seen in places.items())
        lines.append(f"More than one location, image by image: {said}")
    return lines


def by_location(findings: Iterable[SliceFinding]) -> dict[str, list[SliceFinding]]:
    """Slices by their own likeliest location, the commonest first."""
    places: dict[str, list[SliceFinding]] = {name: [] for name in LOCATIONS}
    for s in findings:
        if s.location is not None:
            places[likeliest(s.location)].append(s)
    return {name: seen for name, seen in sorted(places.items(), key=lambda one: -len(one[1])) if seen}


def likeliest(outputs: Sequence[float]) -> str:
    """The location with the highest output."""
    return LOCATIONS[max(range(len(LOCATIONS)), key=outputs.__getitem__)]


def _limits(findings: SeriesFindings) -> list[str]:
    """Why the answer is not a plainer one, and what limits it in any case; in one line where it is present."""
    why, limits = list(findings.reasons), list(findings.limits)
    if findings.outcome is Outcome.PRESENT:
        why, limits = [], why + limits
    told = {"Reason": why, "Limits": limits}
    return [
        f"{word}: " + "; ".join(dict.fromkeys(each.rstrip(". ") for each in said))
        for word, said in told.items()
        if said
    ]


def child(findings: SeriesFindings, age_years: Iterable[int | None]) -> tuple[str, ...]:
    """By the ages that the images' headers give."""
    known = [age for age in age_years if age is not None]
    if not findings.evaluated or not known or max(known) >= ADULT_YEARS:
        return ()
    return (f"the patient is under {ADULT_YEARS} years old, and the model was not assessed on children",)


def thin(findings: SeriesFindings) -> tuple[str, ...]:
    """What the model saw is not quite what the reader sees in the image that is named."""
    count = sum(s.averaged > 1 for s in findings.evaluated)
    if not count:
        return ()
    were = "is thin; it was" if count == 1 else "are thin; each was"
    return (f"{count} of {len(findings.slices)} images {were} judged as part of a slab of {SLAB_MM:g} mm",)


def lossy(findings: SeriesFindings, ratios: Mapping[str, float | None]) -> tuple[str, ...]:
    """`28 of 30 images were lossily compressed (ratio 8 to 12)`; `ratios` by SOP Instance UID of those that were."""
    which = [ratios[s.sop_instance_uid] for s in findings.slices if s.sop_instance_uid in ratios]
    if not which or not findings.evaluated:
        return ()
    known = sorted(ratio for ratio in which if ratio is not None)
    ends = dict.fromkeys(f"{ratio:.3g}" for ratio in known[:1] + known[-1:])
    told = f" (ratio {' to '.join(ends)})" if ends else ""
    were = "was" if len(which) == 1 else "were"
    return (f"{len(which)} of {len(findings.slices)} images {were} lossily compressed{told}",)


def counts(findings: SeriesFindings, series_number: str | None = None) -> str:
    """`23 of 28 images of series 2 evaluated; not evaluated: 13 (unreadable), 1-3 (below the brain)`; gaps in the brain
    first. Without the series a reader might look for image 13 in another reconstruction of the study.
    """
    series = f" of series {series_number}" if series_number else ""
    said = f"{len(findings.evaluated)} of {len(findings.slices)} images{series} evaluated"
    if not findings.evaluated:
        return said
    out = sorted((s for s in findings.slices if not s.evaluated), key=lambda s: s.region in OUTSIDE)
    groups = [[s for s in out if s.left_out == reason] for reason in dict.fromkeys(s.left_out for s in out)]
    which = [f"{labels(group)} ({group[0].left_out})" for group in groups]
    if len(which) > REASONS_TOLD + len(OUTSIDE):  # as where each gives a different number of bytes
        kept = [w for w, group in zip(which, groups, strict=True) if group[0].region in OUTSIDE]
        rest = [s for group in groups if group[0].region not in OUTSIDE for s in group]
        which = [f"{labels(rest)} (each for the reason given with it)", *kept]
    return f"{said}; not evaluated: {', '.join(which)}" if which else said


def images(findings: Sequence[SliceFinding]) -> str:
    """`image 12`, `images 12-17`, `frames 3-5 of image 1`; one without a number by its position."""
    names = label(findings[0]) if len(findings) == 1 and findings[0].frame is None else labels(findings)
    if names.startswith("frame"):
        return names
    if len(findings) > 1 and all(f.instance_number is None for f in findings):
        count, how = names.split(" ", 1)
        return f"{count} images {how}"
    return f"{'image' if len(findings) == 1 else 'images'} {names}"
