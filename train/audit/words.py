"""What the figures say, in plain words, by the rules here and in docs/audit.md. No figure, no sentence.

The wording follows from the figures alone: the same figures give the same words, whosever model it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from train.audit import counterfactuals, phantoms, probes
from train.audit.figures import Figure, Section, goals_of
from train.audit.healing import HEALERS
from train.audit.transplanting import BLENDERS
from train.digits import of_hundred, shown

TELLS = 0.7  # AUC; below, there is little that could be a shortcut
APART = 0.05  # between the mean probabilities of the two kinds; less decides few calls, whatever the AUC
TURNED = 0.4  # AUC; below, the two are told apart as well as above 0.6, but the wrong way round
GUESS = 0.5  # AUC; no goal forbids a probe to be below it, so its interval must rule out that it is a guess
HALF = 0.5  # of the calls follow the blood
SENSITIVE = 0.1  # of the calls flipped at the middle strength
ALARM = 0.1  # more false alarms with a look-alike than without it
POINTS = 2.0  # times as often as chance
FEW = 60  # patients of both kinds; with fewer, intervals reach so far that a sentence alone would mislead
FLIPS, SHAM_FLIPS = counterfactuals.FLIPS.bound, counterfactuals.SHAM_FLIPS.bound

Figures = Mapping[str, Figure]


def verdict(sections: Sequence[Section]) -> str:
    """One sentence."""
    figures = _by_key(sections)
    keys = [f"healed.{name}" for name in HEALERS], [f"transplanted.{name}" for name in BLENDERS]
    follows = [_least(figures, [f"counterfactuals.{key}.flipped" for key in some]) for some in keys]
    shams = _worst(figures, [f"counterfactuals.{key}.sham_flipped" for some in keys for key in some])
    if _probed(figures) is None or None in follows or shams is None:
        return "Parts of the audit were not run or could not be measured, so there is no verdict on the whole."
    flips = [figure.value for figure in follows if figure is not None]
    shortcut = any(_uses(figures, name) for name in probes.PROBES)
    goals = goals_of(sections)
    met = [goal["met"] for goal in goals]
    missed, unknown = met.count(False), met.count(None)
    doubtful = sum(goal["met"] is True and not goal["beyond_doubt"] for goal in goals)
    doubt = f", {doubtful} of them not beyond doubt" if doubtful else ""
    if not missed and not unknown:
        return f"It looks at blood: every goal of the audit is met{doubt}."
    if not missed:
        return f"It looks at blood: every goal that could be measured is met{doubt}; {unknown} could not."
    steady = min(flips) >= FLIPS and shams.value <= SHAM_FLIPS
    if steady and not shortcut:
        return f"It looks at blood, but {missed} of the audit's goals {'is' if missed == 1 else 'are'} missed."
    if max(flips) >= HALF and not shortcut:
        return "Blood moves it, but less or less surely than it should; it uses none of the shortcuts that were tried."
    if max(flips) >= HALF:
        return "It looks at blood, and at something that goes with it here: elsewhere it will do worse than here."
    if shortcut:
        return "It does not go by blood: it tells this data apart by something else, and will not do so elsewhere."
    return "It goes neither by blood nor by any of the shortcuts that were tried: by something unknown, or by nothing."


def _probed(figures: Figures) -> Figure | None:
    return _worst(figures, [f"probes.{name}.slice_auc" for name in probes.PROBES])


def _uses(figures: Figures, probe: str) -> bool:
    """Whether what is left in a probe tells the two kinds apart, and by more than a hair."""
    found, apart = _known(figures, f"probes.{probe}.slice_auc"), _known(figures, f"probes.{probe}.gap")
    return bool(found and apart and found.value > probes.GOAL.bound and apart.value >= APART)


def paragraph(sections: Sequence[Section]) -> list[str]:
    """Sentences, one thing each, for the parts that were run."""
    figures = _by_key(sections)
    said = [verdict(sections)]
    for part in (_probes, _healed, _transplanted, _phantoms, _implants, _stability, _pointing):
        said += part(figures)
    known = _known(figures, "probes.untouched.patient_auc")
    if known is not None and known.patients < FEW:
        said.append(f"All of this rests on {known.patients} patients, so read the intervals before the sentences.")
    return said


def _probes(figures: Figures) -> list[str]:
    known = _known(figures, "probes.untouched.patient_auc")
    if known is None:
        return []
    said = [f"On the patients as they are it has an AUC of {_area(known, TELLS)}."]
    if known.value < TELLS:
        said.append("That is low, so there is little that a shortcut could have given it.")
    worst = _probed(figures)
    if worst is None:
        return said
    name = next(n for n in probes.PROBES if figures.get(f"probes.{n}.slice_auc") is worst)
    what, most = probes.PROBES[name][0], _area(worst, probes.GOAL.bound)
    areas = [f"probes.{name}.slice_auc" for name in probes.PROBES]
    least = _least(figures, [key for key in areas if (area := _known(figures, key)) and area.high < GUESS])
    turned = least is not None and least.value < TURNED
    if worst.value <= probes.GOAL.bound and not turned:
        said.append(f"Without blood it cannot tell them apart: the highest AUC of any probe is {most} ({what}).")
    elif worst.value > probes.GOAL.bound:
        said.append(f"It can tell them apart without blood: {what} alone gives an AUC of {most} per slice.")
    used = [probes.PROBES[probe][0] for probe in probes.PROBES if _uses(figures, probe)]
    if used:
        said.append(f"Its probabilities move by {100 * APART:.0f} points or more with: {', '.join(used)}.")
    elif worst.value > probes.GOAL.bound:
        said.append(f"But no probe moves its probabilities by {100 * APART:.0f} points: that decides few calls.")
    if least is not None and turned:
        name = next(n for n in probes.PROBES if figures.get(f"probes.{n}.slice_auc") is least)
        apart = _known(figures, f"probes.{name}.gap")
        few = "" if apart and apart.value <= -APART else ", though by too little to decide many calls"
        said.append(
            f"Shown only {probes.PROBES[name][0]}, normals score higher than bleeding patients (AUC "
            f"{_area(least, TURNED)}): it tells them apart by something that is not blood, the wrong way round{few}."
        )
    return said


def _healed(figures: Figures) -> list[str]:
    keys = [f"counterfactuals.healed.{name}" for name in HEALERS]
    flips, shams = _least(figures, [f"{k}.flipped" for k in keys]), _worst(figures, [f"{k}.sham_flipped" for k in keys])
    if flips is None or shams is None:
        return []
    enough, quiet = flips.value >= FLIPS, shams.value <= SHAM_FLIPS
    said = [
        f"With the bleed healed it takes back {_percent(flips, FLIPS)} of its calls (the lesser of two healers), and "
        f"{_percent(shams, SHAM_FLIPS)} when another place is treated the same way: "
        + {
            (True, True): "its call follows the blood.",
            (True, False): "its call follows the blood, but the treatment itself moves it too.",
            (False, True): "some of its calls rest on something other than the segmented bleed.",
            (False, False): "the treatment moves it, and some of its calls stand without the bleed.",
        }[enough, quiet]
    ]
    areas = _worst(figures, [f"{k}.vs_normal_auc" for k in keys])
    if areas is None:
        return said
    told = f"(AUC {_area(areas, counterfactuals.HEALED_AUC.bound, TURNED)})"
    if areas.value > counterfactuals.HEALED_AUC.bound:
        said.append(f"Slices of bleeding patients score higher than normals even when healed {told}.")
    elif areas.value < TURNED:
        said.append(f"Healed, they score lower than normals {told}.")
    else:
        said.append(f"Healed, they score like normals {told}.")
    return said


def _transplanted(figures: Figures) -> list[str]:
    keys = [f"counterfactuals.transplanted.{name}" for name in BLENDERS]
    flips, shams = _least(figures, [f"{k}.flipped" for k in keys]), _worst(figures, [f"{k}.sham_flipped" for k in keys])
    if flips is None or shams is None:
        return []
    verb = "sees" if flips.value >= FLIPS else "overlooks too many of"
    called = _percent(flips, FLIPS)
    said = f"In normal heads it {verb} transplanted bleeds: {called} are called (the lesser of two blenders)"
    quiet = shams.value <= SHAM_FLIPS
    return [
        f"{said}, and {_percent(shams, SHAM_FLIPS)} where tissue without blood was put in"
        + ("." if quiet else ", which is too many.")
    ]


def _phantoms(figures: Figures) -> list[str]:
    large = _known(figures, "phantoms.auc_over_5_ml")
    if large is None:
        return []
    enough = large.value >= phantoms.GOAL.bound
    said = [
        "It tells synthetic heads with a bleed over 5 ml from the same heads without it with an AUC of "
        + _area(large, phantoms.GOAL.bound)
        + ("." if enough else f", less than the {phantoms.GOAL.bound:.2f} wanted.")
    ]
    alarms = []
    for key, figure in figures.items():
        without = _known(figures, key.removesuffix("false_alarms") + "without")
        if key.startswith("phantoms.lookalikes.") and key.endswith(".false_alarms") and without is not None:
            more = figure.value - without.value
            if math.isfinite(more) and more >= ALARM:
                alarms.append((more, key.split(".")[2].replace("_", " ")))
    if alarms:
        named = ", ".join(f"{what} ({100 * more:+.0f} %)" for more, what in sorted(alarms, reverse=True))
        said.append(f"It takes for blood what is not: {named}.")
    else:
        said.append("No look-alike adds a tenth or more to its false alarms.")
    return said


def _implants(figures: Figures) -> list[str]:
    keys = [f"implants.bleeds.{name}" for name in BLENDERS]
    called = _least(figures, [f"{key}.called" for key in keys])
    alarms = _known(figures, "implants.untouched.false_alarms")
    if called is None or alarms is None:
        return []
    large = _least(figures, [f"{key}.called_over_15_ml" for key in keys])
    said = (
        f"Of synthetic bleeds implanted in heads without hemorrhage, {_percent(called)} are called (the lesser of two "
    )
    said += "blenders)" + ("" if large is None else f", of those over 15 ml {_percent(large)}")
    return [said + f"; of the same heads' slices as they are, {_percent(alarms)}."]


def _stability(figures: Figures) -> list[str]:
    flipped = {
        key.split(".")[1]: figure.value
        for key, figure in figures.items()
        if key.startswith("stability.") and key.endswith(".2.flipped") and math.isfinite(figure.value)
    }
    if not flipped:
        return []
    shaky = [
        f"{kind} ({100 * share:.0f} %)"
        for kind, share in sorted(flipped.items(), key=lambda item: -item[1])
        if share >= SENSITIVE
    ]
    if shaky:
        return [f"At middle strength, these harmless changes flip a tenth of its calls or more: {', '.join(shaky)}."]
    kind = max(flipped, key=lambda each: flipped[each])
    most = of_hundred(flipped[kind], _side(SENSITIVE))
    return [f"No harmless change at middle strength flips a tenth of its calls (most: {kind}, {most} %)."]


def _pointing(figures: Figures) -> list[str]:
    said = []
    for name, where in (("patients", "the segmented bleed"), ("phantoms", "the bleed of phantoms")):
        hits, chance = _known(figures, f"pointing.{name}.hits"), _known(figures, f"pointing.{name}.hits_by_chance")
        if hits is None or chance is None:
            continue
        points = hits.value >= HALF and hits.value >= POINTS * chance.value
        verb = "falls" if points else "does not reliably fall"
        said.append(
            f"Its relevance map {verb} on {where}: {_percent(hits, HALF)} of its maxima do, "
            f"{_percent(chance)} would by chance."
        )
    return said


def _by_key(sections: Sequence[Section]) -> dict[str, Figure]:
    return {f"{section.name}.{row.key}": row.figure for section in sections for row in section.rows}


def _known(figures: Figures, key: str) -> Figure | None:
    found = figures.get(key)
    return found if found is not None and math.isfinite(found.value) else None


def _worst(figures: Figures, keys: Sequence[str]) -> Figure | None:
    """The highest; None unless all are known."""
    found = [_known(figures, key) for key in keys]
    return None if None in found else max((f for f in found if f is not None), key=lambda f: f.value)


def _least(figures: Figures, keys: Sequence[str]) -> Figure | None:
    found = [_known(figures, key) for key in keys]
    return None if None in found else min((f for f in found if f is not None), key=lambda f: f.value, default=None)


def _percent(figure: Figure, *bounds: float) -> str:
    """`bounds`: those that the sentence holds the figure to; rounding never moves it across one."""
    return f"{of_hundred(figure.value, _side(*bounds))} %"


def _area(figure: Figure, *bounds: float) -> str:
    """Likewise, in hundredths."""
    return shown(figure.value, 2, _side(*bounds))


def _side(*bounds: float) -> Callable[[float], list[int]]:
    """Below, at, or above each of them."""
    return lambda value: [(value > bound) - (value < bound) for bound in bounds]
