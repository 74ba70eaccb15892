"""Phantoms: what is promised about truth, place, density and repeatability."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from dtvit.phantom import (
    SHAPES,
    SITES,
    Bleed,
    Head,
    Holder,
    PhantomSlice,
    PhantomSpec,
    Scan,
    draw,
    render,
    render_slice,
    without_bleed,
)
from dtvit.phantom.bleeds import ANCHORS
from dtvit.phantom.compartments import infratentorial, tentorium
from dtvit.phantom.fields import Points
from dtvit.phantom.subject import subject_of

QUICK: dict[str, Any] = {
    "matrix": 256,
    "fov_mm": 250.0,
    "thickness_mm": 5.0,
    "spacing_mm": 5.0,
    "tilt_deg": 0.0,
    "pitch_deg": 0.0,
    "below_mm": 65.0,
}
QUIET = QUICK | {"noise_hu": 0.001, "streak_hu": 0.0, "kernel": 0.3, "age": 50.0, "infarcts": 0}


def bleed_position(spec: PhantomSpec) -> float:
    """Of the slice through the middle of the hematoma."""
    subject = subject_of(spec)
    assert subject.hematoma is not None
    _, y, z = subject.scanner(subject.hematoma.centre)
    tilt = math.radians(spec.scan.tilt_deg)
    return z * math.cos(tilt) + y * math.sin(tilt)


def at_height(spec: PhantomSpec, z_mm: float) -> PhantomSlice:
    """A slice `z_mm` above the AC-PC line of the reference adult."""
    return render_slice(spec, spec.head.centre_mm[2] + z_mm * spec.head.scale[2])


def test_one_slice_is_the_same_alone_as_in_its_series() -> None:
    phantom = render(draw(5, "deep", **QUICK | {"spacing_mm": 40.0}))
    again = render_slice(phantom.spec, phantom.positions_mm[2])
    assert np.array_equal(phantom.hu[2], again.hu)
    assert np.array_equal(phantom.blood[2], again.blood)


def test_the_seed_alone_decides() -> None:
    assert draw(6, "lobar") == draw(6, "lobar")
    assert draw(6, "lobar") != draw(7, "lobar")
    assert draw(6, "lobar").head == draw(6).head
    assert without_bleed(draw(6, "lobar")) == draw(6)


@pytest.mark.parametrize("location", SITES)
def test_blood_holds_the_volume_asked_for(location: str) -> None:
    spec = draw(8, location, volume_ml=9.0, ventricular=False, **QUICK)
    middle = bleed_position(spec)
    slices = [render_slice(spec, position) for position in np.arange(middle - 35, middle + 35.1, 5)]
    assert sum(one.blood_mm3 for one in slices) / 1000 == pytest.approx(9.0, rel=0.08)


@pytest.mark.parametrize("site", ANCHORS)
def test_blood_keeps_to_its_compartment(site: str) -> None:
    location = next(name for name, sites in SITES.items() if site in sites)
    spec = draw(14, location, site=site, volume_ml=6.0, mass_effect=0.0, ventricular=False, **QUICK)
    subject = subject_of(spec)
    assert subject.hematoma is not None
    assert spec.bleed is not None
    centre = np.array(subject.hematoma.centre)
    offsets = np.random.default_rng(0).uniform(-25, 25, (3, 40_000)).astype(np.float32)
    rigid = Points(*(offsets[i].reshape(200, 200) + np.float32(centre[i]) for i in range(3)))
    reference = subject.reference(rigid)
    blood = np.asarray(np.maximum(subject.hematoma.distance(rigid), subject.room(spec.bleed)(rigid))) < 0
    assert blood.sum() > 500
    place = subject.pliant(reference)
    assert (subject.skull.cavity(reference)[0][blood] < 0).all()
    if location == "subtentorial":
        assert (infratentorial(place)[blood] < 0).all()
    else:
        assert (tentorium(place)[blood] > 0).all()
        assert (place.x[blood] * spec.bleed.side > 0).all()


@pytest.mark.parametrize("location", SITES)
def test_a_bleed_changes_the_head_around_it_and_nothing_else(location: str) -> None:
    spec = draw(31, location, volume_ml=6.0, mass_effect=0.8, ventricular=False, **QUICK)
    subject = subject_of(spec)
    assert subject.hematoma is not None
    position = bleed_position(spec)
    with_it, without = render_slice(spec, position), render_slice(without_bleed(spec), position)
    changed = np.abs(with_it.hu - without.hu) > 0.01
    cx, cy, _ = subject.scanner(subject.hematoma.centre)
    rows, columns = np.mgrid[:256, :256]
    pixel = spec.scan.pixel_mm
    x = (columns - 127.5) * pixel + spec.head.centre_mm[0] + spec.scan.off_centre_mm[0]
    y = (rows - 127.5) * pixel + spec.head.centre_mm[1] + spec.scan.off_centre_mm[1]
    far = np.hypot(x - cx, y - cy) > subject.hematoma.reach_mm
    assert changed[with_it.blood > 0.5].mean() > 0.95
    assert not changed[far].any()
    assert not without.blood.any()


def test_tissues_have_the_hu_of_a_head() -> None:
    spec = draw(40, "deep", volume_ml=20.0, density_hu=65.0, fluid_level=False, **QUIET)
    one = render_slice(spec, bleed_position(spec))
    blood = one.hu[one.blood > 0.99]
    assert 55 < np.median(blood) < 72
    brain = one.hu[one.brain & (one.blood == 0)]
    assert 24 < np.median(brain) < 40
    assert np.percentile(one.hu[one.head & ~one.brain], 90) > 600
    assert np.median(one.hu[~one.head & ~one.holder]) == pytest.approx(-1000, abs=5)
    base = at_height(spec, -35.0)
    assert (base.hu[base.head] < -700).mean() > 0.02  # air of nose, sinuses and mastoids
    assert (base.hu[base.head] > 500).mean() > 0.1


def test_noise_has_the_strength_asked_for() -> None:
    loud = draw(41, **QUIET | {"noise_hu": 5.0})
    quiet = replace(loud, scan=replace(loud.scan, noise_hu=0.001))
    difference = at_height(loud, 40.0).hu - at_height(quiet, 40.0).hu
    assert 3.5 < difference[108:148, 108:148].std() < 7.5


def test_age_widens_ventricles_and_sulci() -> None:
    fluid = []
    for ventricles, sulcus_mm in ((0.7, 0.4), (1.9, 1.8)):
        spec = draw(
            42, **QUIET | {"ventricles": ventricles, "sulcus_mm": sulcus_mm, "csf_hu": 5.0, "leukoaraiosis": 0.0}
        )
        one = at_height(spec, 12.0)
        fluid.append((one.hu[one.brain] < 16).mean())
    assert fluid[1] > 2 * fluid[0]


def test_a_series_runs_from_below_the_brain_into_the_air_above() -> None:
    phantom = render(
        draw(43, **QUICK | {"spacing_mm": 10.0, "below_mm": 75.0, "shape": "none", "tubes": 0, "hand": False})
    )
    brain = phantom.brain.sum(axis=(1, 2)) * phantom.pixel_mm[0] ** 2 / 100
    assert brain[0] < 20
    assert brain.max() > 130
    assert brain[-2:].sum() == 0
    assert not phantom.head[-1].any()
    assert (phantom.brain <= phantom.head).all()
    assert list(phantom.positions_mm) == sorted(phantom.positions_mm)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_holder_shape_renders_apart_from_the_head(shape: str) -> None:
    spec = draw(4, shape=shape, tubes=0, hand=False, shell_hu=200.0, **QUIET)
    one = render_slice(spec, spec.positions_mm[len(spec.positions_mm) // 2])
    assert not (one.holder & one.head).any()
    assert bool(one.holder.any()) == (shape != "none")
    if shape != "none":
        assert (one.hu[one.holder] > -990).mean() > 0.5


@pytest.mark.parametrize("shape", SHAPES[1:6])
def test_the_gap_between_head_and_holder_is_the_one_asked_for(shape: str) -> None:
    nearest = {}
    for gap_mm in (-4.0, 6.0):
        spec = draw(4, shape=shape, gap_mm=gap_mm, tubes=0, hand=False, cushion=False, shell_mm=4.0, **QUIET)
        distances = []
        for height in (-40, -15, 10, 35):
            one = at_height(spec, float(height))
            if one.head.any() and one.holder.any():
                distances.append(ndimage.distance_transform_edt(~one.head)[one.holder].min() * spec.scan.pixel_mm)
        nearest[gap_mm] = min(distances)
    assert nearest[-4.0] < 1.5
    assert 4.0 < nearest[6.0] < 10.0


@pytest.mark.parametrize("matrix", [256, 512, 1024])
def test_every_matrix_shows_the_same_head(matrix: int) -> None:
    spec = draw(44, **QUIET | {"matrix": matrix})
    one = at_height(spec, 20.0)
    assert one.hu.shape == (matrix, matrix)
    area = one.brain.sum() * spec.scan.pixel_mm**2
    small = replace(spec, scan=replace(spec.scan, matrix=256))
    assert area == pytest.approx(at_height(small, 20.0).brain.sum() * small.scan.pixel_mm**2, rel=0.01)


def test_a_field_name_means_one_thing() -> None:
    names = [field.name for part in (Head, Scan, Holder, Bleed) for field in fields(part)]
    assert len(names) == len(set(names))


def test_an_unknown_field_or_location_or_too_much_blood_is_named() -> None:
    with pytest.raises(TypeError, match="thikness_mm"):
        draw(1, thikness_mm=5.0)
    with pytest.raises(ValueError, match="subdural"):
        draw(1, "subdural")
    with pytest.raises(ValueError, match="no bleed location 'deep' with site 'pons'"):
        draw(1, "deep", site="pons")
    flood = draw(1, "subtentorial", site="pons", volume_ml=600.0, **QUICK)
    with pytest.raises(ValueError, match="there is room for"):
        render_slice(flood, 0.0)
