"""From a description to HU: whole series or any single slice, the same numbers either way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dtvit.phantom import physics
from dtvit.phantom.bleeds import compartment
from dtvit.phantom.canvas import STEP, Canvas, finer
from dtvit.phantom.compartments import tentorium
from dtvit.phantom.fields import Array, Points, ellipsoid, soft
from dtvit.phantom.skull import AIR
from dtvit.phantom.spec import PhantomSpec, Scan
from dtvit.phantom.subject import Subject, subject_of

Mask = NDArray[np.bool_]
FINE_MM = 0.70  # painting grid; a head kernel resolves no more than this, and a sharp one gets 0.56
ABOVE_ANY_HEAD_MM = 110.0
FORAMEN_MAGNUM_MM = -60.0  # against the AC-PC line of the reference adult


@dataclass(frozen=True)
class PhantomSlice:
    """One slice, (rows, columns), and what is truly in it. `blood` is the share of each voxel, 0..1."""

    hu: Array
    blood: Array
    head: Mask
    """All inside the skin, air of nose and sinuses included; ears stand out and count neither here nor as holder."""
    brain: Mask
    """All inside the skull down to the foramen magnum: brain, fluid and bleed."""
    holder: Mask
    """Holder, cushion, tubes and hand."""
    position_mm: float
    blood_mm3: float


@dataclass(frozen=True)
class Phantom:
    """A series feet to head; arrays are (slices, rows, columns), see `PhantomSlice`."""

    spec: PhantomSpec
    hu: Array
    blood: Array
    head: Mask
    brain: Mask
    holder: Mask
    positions_mm: tuple[float, ...]

    @property
    def pixel_mm(self) -> tuple[float, float]:
        return self.spec.scan.pixel_mm, self.spec.scan.pixel_mm

    @property
    def thickness_mm(self) -> float:
        return self.spec.scan.thickness_mm

    @property
    def tilt_deg(self) -> float:
        return self.spec.scan.tilt_deg

    @property
    def location(self) -> str | None:
        return self.spec.location

    @property
    def bleed_ml(self) -> float:
        """Blood as the slices show it, each standing for one slice spacing; with what is in the ventricles."""
        voxel = self.spec.scan.pixel_mm**2 * self.spec.scan.spacing_mm
        return float(self.blood.sum(dtype=np.float64) * voxel / 1000.0)


@dataclass(frozen=True)
class _Layer:
    """One infinitely thin plane, fine grid of the head's window."""

    hu: Array
    blood: Array
    head: Array
    brain: Array


def _layer(subject: Subject, window: Points, fine_mm: float) -> _Layer:
    rigid = subject.rigid(window)
    reference = subject.reference(rigid)
    shell = subject.skull.shell(reference)
    canvas = Canvas(window.x.shape, fine_mm, AIR)
    subject.skull.paint(canvas, reference, shell)
    depth = np.maximum(-shell.cavity, 0.0)
    tissue = subject.pliant(reference)
    bleed = subject.hematoma
    if bleed:
        tissue = tissue.moved(*(-d for d in bleed.pushed(rigid, depth)))
    blood = np.zeros(canvas.hu.shape, np.float32)
    if bool((shell.cavity < fine_mm).any()):
        subject.brain.paint(canvas, tissue, shell)
        for centre, radii in subject.infarcts:
            scar = ellipsoid(tissue, centre, radii) + 0.25 * radii[0] * subject.infarct_noise.slow(
                tissue, 1.2 * radii[0] + 6
            )
            keep = np.maximum(scar, np.maximum(shell.cavity + 2.0, 1.0 - tentorium(tissue)))
            canvas.paint(keep, subject.spec.head.csf_hu + 5.0, edge_mm=4.0, strength=0.85)
        blood = _bleed(canvas, subject, rigid, reference, tissue, shell.cavity, window)
    brain = np.maximum(shell.cavity, FORAMEN_MAGNUM_MM - reference.z)
    return _Layer(canvas.hu, blood, soft(finer(shell.skin), fine_mm), soft(finer(brain), fine_mm))


def _bleed(
    canvas: Canvas, subject: Subject, rigid: Points, reference: Points, tissue: Points, cavity: Array, window: Points
) -> Array:
    """Edema, clot and ventricular blood on one plane; the share of blood on the fine grid."""
    bleed = subject.hematoma
    if bleed is None:
        return np.zeros(canvas.hu.shape, np.float32)
    what = bleed.bleed
    distance = bleed.distance(rigid)
    spread = bleed.bleed.edema_mm + bleed.radius_mm * 2.2 + 25.0
    centre = bleed.centre
    away = np.sqrt((rigid.x - centre[0]) ** 2 + (rigid.y - centre[1]) ** 2 + (rigid.z - centre[2]) ** 2)
    if float(away.min()) > spread + 30.0:
        return np.zeros(canvas.hu.shape, np.float32)
    room = compartment(what, cavity, subject.pliant(reference))
    edema = np.maximum(distance - 1.6 * what.edema_mm * (1.0 + 0.3 * bleed.noise.slow(rigid, 18.0)), room + 0.5)
    wet = finer(np.asarray(np.clip(0.5 - edema / (1.0 + 0.7 * what.edema_mm), 0, 1), np.float32))
    canvas.hu -= wet * np.float32(what.edema_hu) * np.clip((canvas.hu - 8.0) / 18.0, 0.0, 1.0) * (canvas.hu < 60)
    density = bleed.density(rigid, window.y - np.float32(subject.scanner(centre)[1]))
    clot = np.maximum(distance, room)
    share = soft(finer(clot), max(canvas.fine_mm, 1.0))
    if what.ventricular:
        pool = np.maximum(subject.brain.ventricles.upper(tissue), cavity + 4.0)
        if what.location == "subtentorial":
            pool = subject.brain.ventricles.fourth(tissue)
        low = 28.0 - (tissue.y - 10.0)  # blood sinks to the back of the ventricles
        near = np.minimum(distance - 9.0 - 4.0 * bleed.noise.slow(rigid, 20.0), low)
        share = np.maximum(share, soft(finer(np.maximum(pool + 0.3, near).astype(np.float32)), 1.4))
    canvas.lay(share, finer(density))
    return share


@dataclass(frozen=True)
class _Field:
    """The reconstructed square as a grid of coarse points, in the scanner's coordinates."""

    across: Array
    """mm to the patient's left of every column."""
    down: Array
    """mm down the (tilted) plane of every row."""
    coarse_mm: float
    cos: float
    sin: float

    @classmethod
    def of(cls, spec: PhantomSpec) -> _Field:
        scan, centre = spec.scan, spec.head.centre_mm
        target = max(FINE_MM if scan.kernel < 0.6 else 0.8 * FINE_MM, 0.75 * scan.pixel_mm)
        cells = math.ceil(scan.fov_mm / (target * STEP))
        coarse_mm = scan.fov_mm / cells
        axis = (np.arange(cells) + 0.5) * coarse_mm - scan.fov_mm / 2
        tilt = math.radians(scan.tilt_deg)
        across, down = axis + centre[0] + scan.off_centre_mm[0], axis + centre[1] + scan.off_centre_mm[1]
        return cls(across, down, coarse_mm, math.cos(tilt), math.sin(tilt))

    def plane(self, position_mm: float, rows: slice = slice(None), columns: slice = slice(None)) -> Points:
        v, u = np.meshgrid(self.down[rows], self.across[columns], indexing="ij")
        z = position_mm / self.cos - v * self.sin
        return Points(u.astype(np.float32), (v * self.cos).astype(np.float32), z.astype(np.float32))

    def window(self, subject: Subject) -> tuple[slice, slice]:
        """Rows and columns that can hold some of the head, ears and nose included."""
        box, y = subject.box, self.down * self.cos
        rows = np.flatnonzero((y > box.front - 8) & (y < box.back + 8))
        columns = np.flatnonzero((self.across > box.left - 12) & (self.across < box.right + 12))
        return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _offsets(thickness_mm: float) -> NDArray[np.float64]:
    """Planes that stand for the thickness of a slice: more of them the more is averaged."""
    count = 1 if thickness_mm < 1.5 else 2 if thickness_mm < 3.5 else 3
    return np.asarray(((np.arange(count) + 0.5) / count - 0.5) * thickness_mm)


def _resized(share: Array, scan: Scan, fine_mm: float) -> Array:
    how = cv2.INTER_AREA if scan.pixel_mm > 1.3 * fine_mm else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(share, (scan.matrix, scan.matrix), interpolation=how), np.float32)


def render_slice(spec: PhantomSpec, position_mm: float) -> PhantomSlice:
    """The slice whose centre lies at `position_mm` along the slice normal (see `PhantomSpec.positions_mm`)."""
    subject, scan, field = subject_of(spec), spec.scan, _Field.of(spec)
    fine_mm = field.coarse_mm / STEP
    whole = field.plane(position_mm)
    scene, holder = Canvas(whole.x.shape, fine_mm, AIR), Canvas(whole.x.shape, fine_mm, 0.0)
    subject.bench.paint(scene, holder, whole)
    hu = scene.hu
    blood, head, brain = (np.zeros_like(hu) for _ in range(3))
    if float(whole.z.min()) < spec.head.centre_mm[2] + ABOVE_ANY_HEAD_MM:
        rows, columns = field.window(subject)
        inner = slice(rows.start * STEP, rows.stop * STEP), slice(columns.start * STEP, columns.stop * STEP)
        behind, offsets = hu[inner].copy(), _offsets(scan.thickness_mm)
        hu[inner] = 0.0
        part = np.float32(1.0 / len(offsets))
        for offset in offsets:
            layer = _layer(subject, field.plane(position_mm + float(offset), rows, columns), fine_mm)
            empty = (layer.hu <= AIR + 1.0) & (layer.head < 0.01)
            hu[inner] += np.where(empty, behind, layer.hu) * part
            blood[inner] += layer.blood * part
            head[inner] += layer.head * part
            brain[inner] += layer.brain * part

    rng = np.random.default_rng([spec.seed, 13, round(position_mm * 1000) & 0xFFFFFFFF])
    change, bone_mm = physics.beam_hardening(hu, fine_mm, scan.streak_hu, rng)
    hu += change * np.clip((hu + 300.0) / 200.0, 0.0, 1.0)
    image = physics.resolve(hu, scan, fine_mm)
    dense = _resized(cv2.GaussianBlur(head, (0, 0), 12.0 / fine_mm), scan, fine_mm)
    loud = scan.noise_hu * (0.85 + 0.012 * min(bone_mm, 40.0)) * (0.45 + 0.6 * dense)
    image += physics.noise(scan, rng) * loud
    np.clip(image, -1024.0, 3071.0, out=image)
    seen = _resized(blood, scan, fine_mm)
    inside = _resized(head, scan, fine_mm) > 0.5
    beside = (_resized(holder.hu, scan, fine_mm) > 0.5) & ~inside
    blood_mm3 = float(seen.sum(dtype=np.float64)) * scan.pixel_mm**2 * scan.thickness_mm
    return PhantomSlice(image, seen, inside, _resized(brain, scan, fine_mm) > 0.5, beside, position_mm, blood_mm3)


def render(spec: PhantomSpec) -> Phantom:
    """Every slice of `spec.positions_mm`."""
    slices = [render_slice(spec, position) for position in spec.positions_mm]
    hu, blood, head, brain, holder = (
        np.stack([getattr(s, name) for s in slices]) for name in ("hu", "blood", "head", "brain", "holder")
    )
    return Phantom(spec, hu, blood, head, brain, holder, spec.positions_mm)
