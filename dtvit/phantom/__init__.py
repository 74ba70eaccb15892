"""Phantom head CT: heads that never lived, with and without intracerebral hemorrhage, truth known in every voxel.

`draw` makes a description from a seed, `render` a whole series of it, `render_slice` any one slice (about 60 ms), and
`without_bleed` the same head before it bled. Size, age, anatomy, pose, scanner and holder all vary. The anatomy is a
set of implicit shapes warped by smooth noise (`skull`, `brain` and its parts, `bleeds`, `holders`), painted plane by
plane (`canvas`), averaged over the slice thickness, and given the scanner's resolution, noise and artefacts
(`physics`). HU values and measures are textbook facts, named in each module.
"""

from dtvit.phantom.draws import draw
from dtvit.phantom.render import Phantom, PhantomSlice, render, render_slice
from dtvit.phantom.spec import SHAPES, SITES, Bleed, Head, Holder, PhantomSpec, Scan, without_bleed

__all__ = [
    "SHAPES",
    "SITES",
    "Bleed",
    "Head",
    "Holder",
    "Phantom",
    "PhantomSlice",
    "PhantomSpec",
    "Scan",
    "draw",
    "render",
    "render_slice",
    "without_bleed",
]
