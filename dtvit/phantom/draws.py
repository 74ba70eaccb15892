"""Random phantoms: every choice made from one seed.

Head, scan, holder and bleed are drawn from separate streams of that seed: the same seed with another bleed, or with
none, is the same head in the same scanner. Frequencies and ranges follow textbook head CT (Osborn, Brain: imaging,
pathology, and anatomy; Haaga, CT and MRI of the whole body) and are wider than any one hospital's, because networks
learn from them.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np

from dtvit.phantom.spec import SHAPES, SITES, Bleed, Head, Holder, PhantomSpec, Scan


def draw(seed: int | np.random.Generator, location: str | None = None, **overrides: Any) -> PhantomSpec:
    """A random phantom; `location` is one of "deep", "lobar", "subtentorial", or None for no bleed.

    `overrides` sets single fields of any part by name: ``draw(7, "deep", volume_ml=12, shape="ring", tilt_deg=18)``.
    Those of a bleed are passed over where there is none, so that the same call draws a head with and without.
    Raises TypeError for a name no part has, ValueError for a location that does not exist.
    """
    number = int(seed.integers(2**31)) if isinstance(seed, np.random.Generator) else int(seed)
    if location is not None and location not in SITES:
        raise ValueError(f"location {location!r} is not one of {', '.join(SITES)} or None")
    streams = [np.random.default_rng([number, part]) for part in range(4)]
    asked = dict(overrides)

    def settled(part: Any) -> Any:
        names = {f.name for f in fields(part)} & asked.keys()
        return replace(part, **{name: asked.pop(name) for name in names})

    head = settled(_head(streams[0], float(asked["age"]) if "age" in asked else None))
    scan = settled(_scan(streams[1], asked.get("thickness_mm")))
    holder = settled(_holder(streams[2], asked.get("shape"), head, scan))
    bleed = settled(_bleed(streams[3], location, asked.get("site"), head)) if location else None
    if not location:
        for field in fields(Bleed):
            asked.pop(field.name, None)
    if asked:
        raise TypeError(f"no part of a phantom has a field named {', '.join(sorted(asked))}")
    return PhantomSpec(number, head, scan, holder, bleed)


def _chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _head(rng: np.random.Generator, age: float | None) -> Head:
    years = float(np.clip(rng.normal(60, 19), 3, 95))
    years = years if age is None else age
    size = float(rng.normal(1.0, 0.035)) * (0.86 + 0.14 * min(1.0, years / 14))
    scale = tuple(float(size * f) for f in 1 + rng.normal(0, 0.03, 3))
    old = max(0.0, (years - 45) / 45)
    atrophy = float(np.clip(old * rng.uniform(0.4, 1.4) + rng.normal(0, 0.08), 0, 1.3))
    grey = _between(rng, 35.0, 41.5)

    def calcified(probability: float, low: float, high: float) -> float:
        hit, value = _chance(rng, probability), _between(rng, low, high)
        return value if hit else 0.0

    grown = min(1.0, years / 30)
    return Head(
        age=years,
        scale=(scale[0], scale[1], scale[2]),
        shear=(float(rng.normal(0, 0.025)), float(rng.normal(0, 0.02))),
        pitch_deg=float(np.clip(rng.normal(-1, 7) if rng.random() < 0.6 else rng.normal(-17, 6), -30, 18)),
        yaw_deg=float(rng.normal(0, 5) if rng.random() < 0.75 else rng.normal(0, 14)),
        roll_deg=float(rng.normal(0, 3.5)),
        centre_mm=(float(rng.normal(0, 7)), float(rng.normal(0, 12)), _between(rng, -30, 30)),
        ventricles=float(np.clip(rng.lognormal(-0.1, 0.22) * (0.82 + 0.75 * atrophy), 0.5, 2.3)),
        sulcus_mm=float(np.clip(rng.normal(0.75, 0.25) + 1.1 * atrophy, 0.2, 2.3)),
        fluid_mm=float(np.clip(rng.normal(1.0, 0.4) + 1.8 * atrophy, 0.4, 4.5)),
        skull_mm=float(np.clip(rng.normal(6.2, 1.0) * (0.55 + 0.45 * grown), 2.5, 10)),
        scalp_mm=float(np.clip(rng.normal(5.5, 1.3) * (0.7 + 0.3 * grown), 2.8, 9)),
        bone_hu=_between(rng, 900, 1500),
        grey_hu=grey,
        white_hu=grey - _between(rng, 6.0, 11.5),
        csf_hu=_between(rng, 2, 12),
        leukoaraiosis=float(np.clip(old * rng.uniform(-0.5, 1.2), 0, 1)),
        infarcts=int(rng.integers(1, 3)) if _chance(rng, 0.06 + 0.14 * min(old, 1.0)) else 0,
        pineal_hu=calcified(0.65 * grown, 90, 450),
        choroid_hu=calcified(0.65 * grown, 80, 400),
        ganglia_hu=calcified(0.05 + 0.08 * old, 60, 180),
        falx_hu=calcified(0.06 + 0.2 * old, 150, 900),
        vessel_hu=calcified(0.5 * old, 150, 600),
        sinus_fluid=_chance(rng, 0.12),
    )


def _scan(rng: np.random.Generator, thickness: float | None) -> Scan:
    usual = float(rng.choice([5.0, 4.0, 4.8, 6.0, 7.0, 8.0, 3.0, 2.5, 1.25], p=_thickness_shares()))
    thickness_mm = usual if thickness is None else thickness
    kernel = float(np.clip(rng.beta(2.2, 3.2), 0.02, 0.98))
    thin = math.sqrt(5.0 / thickness_mm)
    return Scan(
        matrix=int(rng.choice([512, 512, 512, 512, 512, 512, 512, 256, 1024])),
        fov_mm=float(rng.choice([220, 230, 240, 250, 250, 256, 280, 300, 350, 450])) * _between(rng, 0.96, 1.08),
        thickness_mm=thickness_mm,
        spacing_mm=thickness_mm * float(rng.choice([1.0, 1.0, 1.0, 1.0, 1.1])),
        tilt_deg=_between(rng, -8, 24) if _chance(rng, 0.35) else 0.0,
        kernel=kernel,
        noise_hu=float(np.clip(rng.normal(2.9, 0.9) * (0.75 + 0.7 * kernel) * min(thin, 1.7), 1.3, 13)),
        streak_hu=_between(rng, 2, 18),
        off_centre_mm=(float(rng.normal(0, 4)), float(rng.normal(0, 6))),
        below_mm=_between(rng, 72, 104),
        above_mm=_between(rng, 4, 14),
    )


def _thickness_shares() -> list[float]:
    return [0.46, 0.08, 0.09, 0.06, 0.06, 0.05, 0.08, 0.07, 0.05]


def _holder(rng: np.random.Generator, shape: str | None, head: Head, scan: Scan) -> Holder:
    drawn = str(rng.choice(SHAPES, p=[0.05, 0.22, 0.2, 0.17, 0.1, 0.12, 0.14]))
    kind = drawn if shape is None else shape
    thick = kind == "thick cup"
    gap = float(rng.choice([-4.0, 0.0, rng.uniform(0.5, 4), rng.uniform(4, 14)], p=[0.2, 0.25, 0.3, 0.25]))
    return Holder(
        shape=kind,
        gap_mm=gap,
        shell_mm=_between(rng, 7, 16) if thick else _between(rng, 1.2, 5),
        shell_hu=_between(rng, -80, 220) if thick else _between(rng, 20, 600),
        side_mm=_between(rng, 3, 30),
        rise=_between(rng, -0.6, 0.5),
        cushion=_chance(rng, 0.45),
        tubes=int(rng.choice([0, 0, 0, 0, 1, 2, 3])),
        hand=_chance(rng, 0.06),
    )


def _bleed(rng: np.random.Generator, location: str, site: str | None, head: Head) -> Bleed:
    shares = {"deep": (0.55, 0.37, 0.08), "lobar": (0.32, 0.26, 0.26, 0.16), "subtentorial": (0.6, 0.15, 0.25)}
    drawn = str(rng.choice(SITES[location], p=shares[location]))
    where = drawn if site is None else site
    median, spread, low, high = {
        "putamen": (14.0, 1.0, 0.5, 70.0),
        "thalamus": (7.0, 0.85, 0.4, 30.0),
        "caudate": (3.5, 0.7, 0.4, 14.0),
        "cerebellum": (9.0, 0.9, 0.4, 34.0),
        "vermis": (6.0, 0.8, 0.4, 22.0),
        "pons": (3.0, 0.8, 0.3, 10.0),
    }.get(where, (16.0, 1.05, 0.5, 80.0))
    volume = float(np.clip(rng.lognormal(math.log(median), spread), low, high)) * head.scale[0] ** 3
    small = volume < 4
    stretch = {"putamen": (0.8, 1.35, 1.0), "thalamus": (0.9, 1.15, 0.95), "pons": (1.1, 0.85, 1.1)}.get(
        where, (1, 1, 1)
    )
    radii = np.asarray(stretch) * np.exp(rng.normal(0, 0.22, 3))
    radii /= radii.prod() ** (1 / 3)
    jitter = rng.normal(
        0, {"deep": 2.5, "lobar": 6.0, "subtentorial": 3.5}[location] * (0.4 if where == "pons" else 1), 3
    )
    return Bleed(
        location=location,
        site=where,
        side=int(rng.choice([-1, 1])),
        volume_ml=volume,
        density_hu=_between(rng, 47, 62) if _chance(rng, 0.2) else float(np.clip(rng.normal(66, 6), 52, 84)),
        shift_mm=(float(jitter[0]), float(jitter[1]), float(jitter[2])),
        radii=(float(radii[0]), float(radii[1]), float(radii[2])),
        irregularity=_between(rng, 0.15, 0.7) if small else _between(rng, 0.25, 1.1),
        edema_mm=_between(rng, 0.5, 3.0) if small else _between(rng, 1.5, 11),
        edema_hu=_between(rng, 5, 17),
        mass_effect=_between(rng, 0, 0.9),
        ventricular=_chance(rng, {"thalamus": 0.5, "caudate": 0.6, "putamen": 0.25, "vermis": 0.35}.get(where, 0.08)),
        fluid_level=(not small) and _chance(rng, 0.08),
    )
