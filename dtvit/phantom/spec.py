"""What a phantom is: a frozen description of head, scan, holder and bleed. `draws` makes random ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

SHAPES = ("none", "thin cup", "thick cup", "U", "ring", "double cup", "pillow")
SITES = {
    "deep": ("putamen", "thalamus", "caudate"),
    "lobar": ("frontal", "parietal", "temporal", "occipital"),
    "subtentorial": ("cerebellum", "vermis", "pons"),
}


# Of the reference adult, mm (see `skull`): the vault, and what of the brain lies lowest whichever way the head nods.
_VAULT_CENTRE, _VAULT_RADII = np.array([0.0, 3.0, 4.0]), np.array([70.0, 84.0, 72.0])
_LOWEST = np.array([[0.0, 40.0, -60.0], [0.0, 70.0, -50.0], [40.0, -30.0, -40.0], [-40.0, -30.0, -40.0]])


@dataclass(frozen=True)
class Head:
    age: float
    scale: tuple[float, float, float]
    """Size along x, y, z against the reference adult."""
    shear: tuple[float, float]
    """Lopsidedness: y and z per x."""
    pitch_deg: float
    yaw_deg: float
    roll_deg: float
    centre_mm: tuple[float, float, float]
    """Where the middle of the AC-PC line lies in the scanner."""
    ventricles: float
    """Width of the ventricles, 1 in a healthy adult of fifty."""
    sulcus_mm: float
    """Half width of an ordinary sulcus at its mouth."""
    fluid_mm: float
    """Cerebrospinal fluid between brain and skull."""
    skull_mm: float
    scalp_mm: float
    bone_hu: float
    grey_hu: float
    white_hu: float
    csf_hu: float
    leukoaraiosis: float
    """0 none .. 1 severe."""
    infarcts: int
    pineal_hu: float
    """0: not calcified; likewise below."""
    choroid_hu: float
    ganglia_hu: float
    falx_hu: float
    vessel_hu: float
    sinus_fluid: bool

    @property
    def turn(self) -> NDArray[np.float64]:
        """(3, 3): a direction in the head -> the same in the scanner. A negative pitch lowers the orbits."""
        pitch, yaw, roll = (math.radians(a) for a in (self.pitch_deg, self.yaw_deg, self.roll_deg))
        rx = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
        ry = np.array([[math.cos(roll), 0, math.sin(roll)], [0, 1, 0], [-math.sin(roll), 0, math.cos(roll)]])
        rz = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
        return np.asarray(rz @ ry @ rx)


@dataclass(frozen=True)
class Scan:
    matrix: int
    fov_mm: float
    thickness_mm: float
    spacing_mm: float
    tilt_deg: float
    kernel: float
    """0 smooth .. 1 sharp."""
    noise_hu: float
    streak_hu: float
    """Depth of the beam-hardening band between the petrous bones."""
    off_centre_mm: tuple[float, float]
    below_mm: float
    """How far below the AC-PC line the series of a level head starts; nodding moves that with the brain."""
    above_mm: float
    """How far it ends above the scalp."""

    @property
    def pixel_mm(self) -> float:
        return self.fov_mm / self.matrix


@dataclass(frozen=True)
class Holder:
    shape: str
    gap_mm: float
    """Between head and holder at the back of the head; 0 touches, below 0 the two are fused."""
    shell_mm: float
    shell_hu: float
    side_mm: float
    """Room at each side of the head."""
    rise: float
    """How far the sides come up: -1 the head's back .. 1 its front."""
    cushion: bool
    tubes: int
    hand: bool

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"holder shape {self.shape!r} is not one of {', '.join(SHAPES)}")


@dataclass(frozen=True)
class Bleed:
    location: str
    site: str
    side: int
    """1 left, -1 right."""
    volume_ml: float
    """Inside the brain tissue; blood in the ventricles comes on top."""
    density_hu: float
    shift_mm: tuple[float, float, float]
    """From the usual place of the site."""
    radii: tuple[float, float, float]
    """Proportions along x, y, z."""
    irregularity: float
    """0 smooth ellipsoid .. 1 ragged."""
    edema_mm: float
    edema_hu: float
    """How much lower than the tissue the rim is."""
    mass_effect: float
    """0: tissue is replaced; 1: tissue is pushed aside in full."""
    ventricular: bool
    fluid_level: bool

    def __post_init__(self) -> None:
        if self.site not in SITES.get(self.location, ()):
            known = ", ".join(f"{k}: {'/'.join(v)}" for k, v in SITES.items())
            raise ValueError(f"no bleed location {self.location!r} with site {self.site!r}; known are {known}")


@dataclass(frozen=True)
class PhantomSpec:
    seed: int
    head: Head
    scan: Scan
    holder: Holder
    bleed: Bleed | None

    @property
    def location(self) -> str | None:
        return self.bleed.location if self.bleed else None

    @property
    def positions_mm(self) -> tuple[float, ...]:
        """Of every slice, feet to head, measured along the slice normal (the scanner's origin at 0)."""
        tilt, head, scan = math.radians(self.scan.tilt_deg), self.head, self.scan
        normal = np.array([0.0, math.sin(tilt), math.cos(tilt)])
        middle = float(normal @ np.asarray(head.centre_mm))
        along = (head.turn.T @ normal) * np.asarray(head.scale)  # the normal as the reference adult sees it
        top = along @ _VAULT_CENTRE + np.linalg.norm(along * _VAULT_RADII) + head.skull_mm + head.scalp_mm
        start = middle + float((_LOWEST @ along).min()) - (scan.below_mm + _LOWEST[0, 2])
        count = max(1, math.ceil((middle + float(top) + scan.above_mm - start) / scan.spacing_mm))
        return tuple(start + i * scan.spacing_mm for i in range(count + 1))


def without_bleed(spec: PhantomSpec) -> PhantomSpec:
    """The same head in the same scan, down to the noise, before it bled."""
    return replace(spec, bleed=None)
