"""One head in one scanner, made ready to be painted: coordinates, noise, the bleed fitted, the holder in its place."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from dtvit.phantom.bleeds import Hematoma, compartment, place
from dtvit.phantom.brain import Brain
from dtvit.phantom.compartments import Ventricles
from dtvit.phantom.fields import Array, Noise, Points, Vector
from dtvit.phantom.holders import Bench, Box
from dtvit.phantom.skull import Skull
from dtvit.phantom.spec import Bleed, PhantomSpec


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
        self.brain = Brain(head, noise, folds, Ventricles(head, noise, (float(sides[0]), float(sides[1]))))
        self.turn = head.turn
        stretch = np.diag(1.0 / np.asarray(head.scale))
        lean = np.eye(3)
        lean[1, 0], lean[2, 0] = head.shear
        self.shape = lean @ stretch
        self.infarcts = [self._infarct(rng) for _ in range(head.infarcts)]
        choice = float(np.random.default_rng([spec.seed, 11]).random())
        self.hematoma: Hematoma | None = None
        if spec.bleed:
            self.hematoma = place(spec.bleed, clot, choice, self._to_rigid, self.room(spec.bleed))
        jitter = tuple(float(v) for v in np.random.default_rng([spec.seed, 12]).random(8))
        self.box, near, skin = self._surface()
        self.bench = Bench(spec.holder, self.box, bench, jitter).fitted(near, skin)

    def rigid(self, p: Points) -> Points:
        """Scanner -> head, true millimetres."""
        return p.mapped(self.turn.T, self.spec.head.centre_mm)

    def scanner(self, rigid: Vector) -> Vector:
        """Head -> scanner, one place."""
        x, y, z = self.turn @ np.asarray(rigid) + np.asarray(self.spec.head.centre_mm)
        return float(x), float(y), float(z)

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

    def room(self, bleed: Bleed) -> Callable[[Points], Array]:
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

    def _surface(self) -> tuple[Box, Points, Array]:
        """The head's extent, and places near its skin with their distances to it (scanner coordinates)."""
        cx, cy, cz = self.spec.head.centre_mm
        z = np.arange(cz - 95.0, cz + 105.0, 7.0)
        grid = np.meshgrid(z, np.arange(cy - 150, cy + 135, 5.0), np.arange(cx - 115, cx + 115, 5.0), indexing="ij")
        gz, gy, gx = (np.asarray(g, np.float32) for g in grid)
        skin = self.skull.shell(self.reference(self.rigid(Points(gx, gy, gz)))).skin
        inside, near = skin < 0, np.abs(skin) < 4.0
        xs, ys = gx[inside], gy[inside]
        box = Box(float(xs.min()) - 2.5, float(xs.max()) + 2.5, float(ys.min()) - 2.5, float(ys.max()) + 2.5)
        return box, Points(gx[near], gy[near], gz[near]), skin[near]


@functools.lru_cache(maxsize=4)  # slices of one head are asked for one after the other
def subject_of(spec: PhantomSpec) -> Subject:
    return Subject(spec)
