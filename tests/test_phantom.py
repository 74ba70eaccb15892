"""Phantoms: what is promised about truth, place, density and repeatability."""

from __future__ import annotations

import numpy as np
import pytest

from dtvit.phantom import SHAPES, SITES, draw, render, render_slice, without_bleed

QUICK = {"matrix": 256, "fov_mm": 250.0, "thickness_mm": 5.0, "spacing_mm": 5.0, "tilt_deg": 0.0, "below_mm": 65.0}


def test_one_slice_is_the_same_alone_as_in_its_series() -> None:
    phantom = render(draw(5, "deep", **QUICK | {"spacing_mm": 30.0}))
    again = render_slice(phantom.spec, phantom.positions_mm[3])
    assert np.array_equal(phantom.hu[3], again.hu)
    assert np.array_equal(phantom.blood[3], again.blood)


@pytest.mark.parametrize("location", SITES)
def test_blood_holds_the_volume_asked_for(location: str) -> None:
    phantom = render(draw(8, location, volume_ml=9.0, ventricular=False, **QUICK))
    assert phantom.location == location
    assert phantom.bleed_ml == pytest.approx(9.0, rel=0.08)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_holder_shape_renders_apart_from_the_head(shape: str) -> None:
    spec = draw(4, shape=shape, tubes=0, hand=False, shell_hu=200.0, **QUICK)
    one = render_slice(spec, spec.positions_mm[len(spec.positions_mm) // 2])
    assert not (one.holder & one.head).any()
    assert bool(one.holder.any()) == (shape != "none")


def test_an_unknown_field_or_location_is_named() -> None:
    with pytest.raises(TypeError, match="thikness_mm"):
        draw(1, thikness_mm=5.0)
    with pytest.raises(ValueError, match="subdural"):
        draw(1, "subdural")


def test_without_its_bleed_a_head_has_none() -> None:
    spec = without_bleed(draw(2, "lobar", **QUICK))
    assert spec.location is None
    assert not render_slice(spec, spec.positions_mm[14]).blood.any()
