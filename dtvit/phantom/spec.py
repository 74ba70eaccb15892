"""What a phantom is: a frozen description of head, scan, holder and bleed. `draws` makes random ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

SHAPES = ("none", "thin cup", "thick cup", "U", "ring", "double cup", "pillow")
SITES = {
    "deep": ("putamen", "thalamus", "caudate"),
    "lobar": ("frontal", "parietal", "temporal", "occipital"),
    "subtentorial": ("cerebellum", "vermis", "pons"),
}


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
    """How far below the AC-PC line the series starts."""
    above_mm: float
    """How far above the vertex it ends."""

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
        cos = math.cos(math.radians(self.scan.tilt_deg))
        head = self.head
        vertex = head.centre_mm[2] + head.scale[2] * 80.0 + head.skull_mm + head.scalp_mm + self.scan.above_mm
        start = head.centre_mm[2] - self.scan.below_mm
        count = max(1, math.ceil((vertex - start) * cos / self.scan.spacing_mm))
        return tuple(start * cos + i * self.scan.spacing_mm for i in range(count + 1))


def without_bleed(spec: PhantomSpec) -> PhantomSpec:
    """The same head in the same scan, down to the noise, before it bled."""
    return replace(spec, bleed=None)
