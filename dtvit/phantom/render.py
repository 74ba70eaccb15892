"""From a description to HU: whole series or any single slice, the same numbers either way."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dtvit.phantom import physics
from dtvit.phantom.bleeds import Hematoma, compartment, place
from dtvit.phantom.brain import Brain, tentorium
from dtvit.phantom.canvas import STEP, Canvas, finer
from dtvit.phantom.fields import Array, Noise, Points, Vector, ellipsoid, soft
from dtvit.phantom.holders import Bench, Box
from dtvit.phantom.skull import Skull
from dtvit.phantom.spec import Bleed, PhantomSpec

Mask = NDArray[np.bool_]
FINE_MM = 0.70  # painting grid; a head kernel resolves no more than this, and a sharp one gets 0.55
SEEN = 0.02  # share of blood from which a slice counts as showing some


@dataclass(frozen=True)
class PhantomSlice:
    """One slice, (rows, columns), and what is truly in it. `blood` is the share of each voxel, 0..1."""

    hu: Array
    blood: Array
    head: Mask
    """All inside the skin, air of nose and sinuses included."""
    brain: Mask
    """All inside the skull: brain, fluid and bleed."""
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


class Subject:
    """One head in one scanner, made ready: noise picked, bleed fitted, holder put in place."""

    def __init__(self, spec: PhantomSpec) -> None:
        self.spec = spec
        head = spec.head
        rng = np.random.default_rng([spec.seed, 10])
        self.warps = [Noise.draw(rng) for _ in range(3)]
        noise, texture, folds, clot, bench = (Noise.draw(rng) for _ in range(5))
        sides = rng.normal(1.0, 0.09, 2)
        self.infarct_noise = clot
        self.skull = Skull(head, noise, texture)
        self.brain = Brain(head, noise, folds, (float(sides[0]), float(sides[1])))
        pitch, yaw, roll = (math.radians(a) for a in (head.pitch_deg, head.yaw_deg, head.roll_deg))
        rx = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
        ry = np.array([[math.cos(roll), 0, math.sin(roll)], [0, 1, 0], [-math.sin(roll), 0, math.cos(roll)]])
        rz = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
        self.turn = rz @ ry @ rx
        stretch = np.diag(1.0 / np.asarray(head.scale))
        lean = np.eye(3)
        lean[1, 0], lean[2, 0] = head.shear
        self.shape = lean @ stretch
        self.infarcts = [self._infarct(rng) for _ in range(head.infarcts)]
        choice = float(np.random.default_rng([spec.seed, 11]).random())
        self.hematoma: Hematoma | None = None
        if spec.bleed:
            self.hematoma = place(spec.bleed, clot, choice, self._to_rigid, self._room(spec.bleed))
        self.box = self._extent()
        jitter = tuple(float(v) for v in np.random.default_rng([spec.seed, 12]).random(8))
        self.bench = Bench(spec.holder, self.box, bench, jitter)

    def rigid(self, p: Points) -> Points:
        """Scanner -> head, true millimetres."""
        return p.mapped(self.turn.T, self.spec.head.centre_mm)

    def reference(self, rigid: Points) -> Points:
        """Head -> reference adult: size, lopsidedness, and the gentle irregularity of real heads."""
        q = rigid.mapped(self.shape)
        dx, dy, dz = (n.slow(q, 130.0) for n in self.warps)
        return q.moved(2.2 * dx, 2.2 * dy, 1.6 * dz)

    def pliant(self, reference: Points) -> Points:
        """The brain varies on a smaller scale than the skull."""
        return reference.moved(*(1.3 * n.slow(reference.moved(33), 46.0) for n in self.warps))

    def _to_rigid(self, target: Vector) -> Vector:
        """The place in the head that is `target` in the reference adult, by fixed-point iteration."""
        goal = np.asarray(target)
        guess = np.linalg.solve(self.shape, goal)
        for _ in range(4):
            here = self.pliant(self.reference(Points(*(np.asarray([v], np.float32) for v in guess))))
            guess = guess + np.linalg.solve(self.shape, goal - np.array([here.x[0], here.y[0], here.z[0]]))
        return float(guess[0]), float(guess[1]), float(guess[2])

    def _room(self, bleed: Bleed) -> Callable[[Points], Array]:
        def room(rigid: Points) -> Array:
            reference = self.reference(rigid)
            return compartment(bleed, self.skull.cavity(reference)[0], self.pliant(reference))

        return room

    def _infarct(self, rng: np.random.Generator) -> tuple[Vector, Vector]:
        side = float(rng.choice([-1, 1]))
        centre = (side * rng.uniform(28, 55), rng.uniform(-50, 60), rng.uniform(-5, 45))
        lacune = rng.random() < 0.45
        if lacune:
            centre = (side * rng.uniform(12, 28), rng.uniform(-15, 18), rng.uniform(0, 18))
        size = rng.uniform(2.5, 5) if lacune else rng.uniform(10, 24)
        radii = size * np.exp(rng.normal(0, 0.25, 3))
        return (float(centre[0]), float(centre[1]), float(centre[2])), (
            float(radii[0]),
            float(radii[1]),
            float(radii[2]),
        )

    def _extent(self) -> Box:
        cx, cy, cz = self.spec.head.centre_mm
        z = np.arange(cz - min(self.spec.scan.below_mm, 90.0), cz + 100.0, 7.0)
        grid = np.meshgrid(z, np.arange(cy - 150, cy + 135, 5.0), np.arange(cx - 115, cx + 115, 5.0), indexing="ij")
        gz, gy, gx = (np.asarray(g, np.float32) for g in grid)
        q = self.rigid(Points(gx, gy, gz)).mapped(self.shape)
        skin = self.skull.shell(q).skin < 0
        xs, ys = gx[skin], gy[skin]
        return Box(float(xs.min()) - 2.5, float(xs.max()) + 2.5, float(ys.min()) - 2.5, float(ys.max()) + 2.5)


@functools.lru_cache(maxsize=4)
def _subject(spec: PhantomSpec) -> Subject:
    return Subject(spec)


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
    canvas = Canvas(window.x.shape, fine_mm, -1000.0)
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
    return _Layer(canvas.hu, blood, soft(finer(shell.skin), fine_mm), soft(finer(shell.cavity), fine_mm))


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
    edema = np.maximum(distance - what.edema_mm * (0.8 + 0.5 * bleed.noise.slow(rigid, 16.0)), room + 0.5)
    wet = finer(np.asarray(np.clip(0.5 - edema / (1.0 + 0.7 * what.edema_mm), 0, 1), np.float32))
    canvas.hu -= wet * np.float32(what.edema_hu) * np.clip((canvas.hu - 8.0) / 18.0, 0.0, 1.0) * (canvas.hu < 60)
    density = bleed.density(rigid, window.y - np.float32(_scanner(subject, centre)[1]))
    clot = np.maximum(distance, room)
    share = soft(finer(clot), max(canvas.fine_mm, 1.0))
    if what.ventricular:
        pool = np.maximum(subject.brain.ventricle(tissue), cavity + 4.0)
        if what.location == "subtentorial":
            pool = subject.brain.fourth(tissue)
        low = 28.0 - (tissue.y - 10.0)  # blood sinks to the back of the ventricles
        near = np.minimum(distance - 9.0 - 4.0 * bleed.noise.slow(rigid, 20.0), low)
        share = np.maximum(share, soft(finer(np.maximum(pool + 0.3, near).astype(np.float32)), 1.4))
    canvas.lay(share, finer(density))
    return share


def _scanner(subject: Subject, rigid: Vector) -> Vector:
    x, y, z = subject.turn @ np.asarray(rigid) + np.asarray(subject.spec.head.centre_mm)
    return float(x), float(y), float(z)


def render_slice(spec: PhantomSpec, position_mm: float) -> PhantomSlice:
    """The slice whose centre lies at `position_mm` along the slice normal (see `PhantomSpec.positions_mm`)."""
    subject, scan = _subject(spec), spec.scan
    target = FINE_MM if scan.kernel < 0.6 else 0.8 * FINE_MM
    cells = math.ceil(scan.fov_mm / (target * STEP))
    coarse_mm = scan.fov_mm / cells
    fine_mm = coarse_mm / STEP
    cos, sin = math.cos(math.radians(scan.tilt_deg)), math.sin(math.radians(scan.tilt_deg))
    axis = (np.arange(cells) + 0.5) * coarse_mm - scan.fov_mm / 2
    u = np.asarray(axis + spec.head.centre_mm[0] + scan.off_centre_mm[0], np.float64)
    v = np.asarray(axis + spec.head.centre_mm[1] + scan.off_centre_mm[1], np.float64)

    def plane(us: NDArray[np.float64], vs: NDArray[np.float64], along: float) -> Points:
        vv, uu = np.meshgrid(vs, us, indexing="ij")
        z = along / cos - vv * sin
        return Points(uu.astype(np.float32), (vv * cos).astype(np.float32), z.astype(np.float32))

    whole = plane(u, v, position_mm)
    backdrop = Canvas(whole.x.shape, fine_mm, -1000.0)
    presence = Canvas(whole.x.shape, fine_mm, 0.0)
    subject.bench.paint(backdrop, presence, whole)

    box = subject.box
    columns = np.flatnonzero((u > box.left - 12) & (u < box.right + 12))
    rows = np.flatnonzero((v * cos > box.front - 8) & (v * cos < box.back + 8))
    shares = {name: np.zeros_like(backdrop.hu) for name in ("blood", "head", "brain")}
    hu = backdrop.hu
    top = spec.head.centre_mm[2] + 110.0
    if rows.size and columns.size and float(whole.z.min()) < top:
        inner = slice(rows[0] * STEP, (rows[-1] + 1) * STEP), slice(columns[0] * STEP, (columns[-1] + 1) * STEP)
        count = 1 if scan.thickness_mm < 1.5 else 2 if scan.thickness_mm < 3.5 else 3
        offsets = ((np.arange(count) + 0.5) / count - 0.5) * scan.thickness_mm
        behind = hu[inner].copy()
        hu[inner] = 0.0
        for offset in offsets:
            layer = _layer(subject, plane(u[columns], v[rows], position_mm + float(offset)), fine_mm)
            empty = layer.hu <= -999.0
            hu[inner] += np.where(empty & (layer.head < 0.01), behind, layer.hu) / np.float32(count)
            for name in shares:
                shares[name][inner] += getattr(layer, name) / np.float32(count)

    rng = np.random.default_rng([spec.seed, 13, round(position_mm * 1000) & 0xFFFFFFFF])
    change, bone_mm = physics.beam_hardening(hu, fine_mm, scan.streak_hu, rng)
    hu = hu + change * np.clip((hu + 300.0) / 200.0, 0.0, 1.0)
    image = physics.resolve(hu, scan, fine_mm)
    size = (scan.matrix, scan.matrix)
    down = cv2.INTER_AREA if scan.pixel_mm > 1.3 * fine_mm else cv2.INTER_LINEAR
    blood, head, brain = (cv2.resize(shares[n], size, interpolation=down) for n in ("blood", "head", "brain"))
    beside = cv2.resize(presence.hu, size, interpolation=down)
    loud = scan.noise_hu * (0.85 + 0.012 * min(bone_mm, 40.0))
    dim = cv2.resize(cv2.GaussianBlur(shares["head"], (0, 0), 12.0 / fine_mm), size, interpolation=cv2.INTER_LINEAR)
    image += physics.noise(scan, rng) * np.float32(loud) * (0.45 + 0.6 * dim)
    np.clip(image, -1024.0, 3071.0, out=image)
    inside = head > 0.5
    mm3 = float(blood.sum(dtype=np.float64)) * scan.pixel_mm**2 * scan.thickness_mm
    return PhantomSlice(image, blood, inside, brain > 0.5, (beside > 0.5) & ~inside, position_mm, mm3)


def render(spec: PhantomSpec) -> Phantom:
    """Every slice of `spec.positions_mm`."""
    slices = [render_slice(spec, position) for position in spec.positions_mm]
    hu, blood, head, brain, holder = (
        np.stack([getattr(s, name) for s in slices]) for name in ("hu", "blood", "head", "brain", "holder")
    )
    return Phantom(spec, hu, blood, head, brain, holder, spec.positions_mm)
