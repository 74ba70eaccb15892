"""The sentences of a report. One place, so that SR, text, picture and log say the same thing in the same words.

The first sentence answers the question; the next ones say how sure, in which images, and what was not looked at.
Plain ASCII throughout: it reads the same in every viewer, whatever the character set of the patient's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from dtvit.findings import LOCATIONS, Outcome, SeriesFindings, SliceFinding

NOT_ASSESSED = (
    "Looks for intracerebral hemorrhage only (blood within cerebrum, cerebellum or brain stem). Does not exclude "
    "subdural, epidural, subarachnoid or isolated intraventricular hemorrhage, or any other disease."
)


def percent(probability: float) -> str:
    """`97 %`; never 0 or 100, which no classifier's output means."""
    value = 100.0 * probability
    if value < 1.0:
        return "under 1 %"
    return "over 99 %" if value > 99.0 else f"{value:.0f} %"


def label(finding: SliceFinding) -> str:
    """What a reader finds in the viewer: the instance number, and the frame of a multi-frame image."""
    number = "?" if finding.instance_number is None else str(finding.instance_number)
    return number if finding.frame is None else f"{number}/{finding.frame}"


def labels(findings: Iterable[SliceFinding]) -> str:
    """`12-17, 19`: instance numbers with runs drawn together; frames of one image as `frames 3-5`."""
    findings = list(findings)
    frames = [f.frame for f in findings if f.frame is not None]
    if findings and len(frames) == len(findings) and len({f.sop_instance_uid for f in findings}) == 1:
        return f"{'frames' if len(frames) > 1 else 'frame'} {_runs(frames)}"
    numbers = [f.instance_number for f in findings if f.instance_number is not None and f.frame is None]
    if len(set(numbers)) == len(findings):
        return _runs(numbers)
    return ", ".join(label(f) for f in findings)


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


def best(findings: SeriesFindings, count: int = 3) -> tuple[SliceFinding, ...]:
    """The slices to look at first, highest output first; none where nothing speaks for hemorrhage."""
    if findings.outcome not in (Outcome.PRESENT, Outcome.UNDETERMINED):
        return ()
    pool = findings.positive or findings.evaluated
    return tuple(sorted(pool, key=lambda s: -(s.presence or 0.0))[:count])


def headline(findings: SeriesFindings) -> str:
    """The answer alone, in capitals: fits a line."""
    if findings.outcome is Outcome.PRESENT:
        where = f", {findings.location.upper()}" if findings.location else ""
        return f"INTRACEREBRAL HEMORRHAGE: PRESENT{where}"
    if findings.outcome is Outcome.ABSENT:
        return "INTRACEREBRAL HEMORRHAGE: ABSENT"
    if findings.outcome is Outcome.UNDETERMINED:
        return "INTRACEREBRAL HEMORRHAGE: UNDETERMINED"
    return "NOT EVALUATED: no statement on hemorrhage"


def series_description(findings: SeriesFindings) -> str:
    """A list of series shows about 20 characters: the result stands in them."""
    if findings.outcome is Outcome.PRESENT:
        return f"AI: ICH PRESENT {findings.location or ''}".strip()
    return {
        Outcome.ABSENT: "AI: ICH ABSENT",
        Outcome.UNDETERMINED: "AI: ICH UNDETERMINED",
        Outcome.NOT_EVALUATED: "AI: NOT EVALUATED",
    }[findings.outcome]


def conclusion(findings: SeriesFindings) -> str:
    """The whole answer as plain sentences."""
    parts = [headline(findings) + "."]
    top = highest(findings)
    output = findings.presence if findings.presence is not None else 0.0
    if findings.outcome is Outcome.PRESENT and top is not None:
        positive = findings.positive
        seen = f"Seen in {_images(positive)}, highest" if positive else "Highest"
        parts.append(f"Output {percent(output)}. {seen} in image {label(top)} ({percent(top.presence or 0.0)}).")
        if findings.location and findings.location_probabilities:
            shares = zip(LOCATIONS, findings.location_probabilities, strict=True)
            parts.append("Location outputs: " + ", ".join(f"{name} {percent(p)}" for name, p in shares) + ".")
    elif findings.outcome is Outcome.ABSENT:
        parts.append(f"The algorithm found no intracerebral hemorrhage. Output {percent(output)}.")
    elif findings.outcome is Outcome.UNDETERMINED and top is not None:
        parts.append("Neither present nor absent.")
        parts.append(f"Output {percent(output)}, highest in image {label(top)} ({percent(top.presence or 0.0)}).")
    if findings.reasons:
        parts.append(("Limits: " if findings.outcome is Outcome.PRESENT else "Reason: ") + sentence(findings.reasons))
    parts.append(counts(findings))
    return " ".join(parts)


def sentence(reasons: Sequence[str]) -> str:
    """Reasons as one sentence, each said once."""
    return "; ".join(dict.fromkeys(reason.rstrip(". ") for reason in reasons)) + "."


def counts(findings: SeriesFindings) -> str:
    """`27 of 28 images evaluated.`"""
    return f"{len(findings.evaluated)} of {len(findings.slices)} images evaluated."


def left_out(findings: SeriesFindings) -> tuple[str, ...]:
    """Per reason: `3 images below the brain: 1-3`. Empty where every image was evaluated."""
    out = [s for s in findings.slices if not s.evaluated]
    lines = []
    for reason, count in Counter(s.left_out or "" for s in out).items():
        which = labels([s for s in out if s.left_out == reason])
        lines.append(f"{count} {'image' if count == 1 else 'images'}, {reason}: {which}")
    return tuple(lines)


def _images(findings: Sequence[SliceFinding]) -> str:
    names = labels(findings)
    if names.startswith("frame"):
        return names
    return f"{'image' if len(findings) == 1 else 'images'} {names}"
