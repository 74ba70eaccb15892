"""Slices healed and bleeds transplanted: what changed, what did not, and what the rows say of it."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import labelled

from dtvit import brace, phantom, preprocess
from train.dataset.pictures import ORIGINS, PARTS, UNCLEAR
from train.making import bleeds, counterfactual, enriching

PATIENT = ORIGINS.index("patient")


def seen(made, spec):
    pixel_mm = (spec.scan.pixel_mm, spec.scan.pixel_mm)
    picture = preprocess.picture(made.hu, brace.find_head(made.hu, pixel_mm, "robust").mask)
    view = preprocess.view_of(picture, preprocess.HEAD_BOX)
    return preprocess.through(picture, view), preprocess.through((made.blood > 0.5).astype(np.uint8) * 255, view) > 127


@pytest.fixture(scope="module")
def slices():
    """(picture with its bleed, blood, picture of another head without) through the middle of heads."""
    made = []
    for seed in (0, 2, 3, 4):
        spec = phantom.draw(np.random.default_rng(seed), "deep", thickness_mm=5.0, spacing_mm=5.0)
        middle = len(spec.positions_mm) // 2
        bleeding = [phantom.render_slice(spec, position) for position in spec.positions_mm[middle : middle + 4 : 3]]
        one = max(bleeding, key=lambda s: s.blood_mm3)
        healthy = phantom.render_slice(phantom.without_bleed(spec), one.position_mm)
        made.append((*seen(one, spec), seen(healthy, spec)[0]))
    return [each for each in made if bleeds.traced(each[0]).sum() > 150]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_healing_takes_the_blood_away_and_leaves_the_rest(slices, rng):
    assert len(slices) >= 2
    for picture, blood, _ in slices:
        mask, inside = bleeds.traced(picture), bleeds.brain(picture)
        healed = counterfactual.heal(picture, mask, inside, rng)
        core = mask & blood
        around = inside & ~mask & (picture > 60) & (picture < 160)
        before, after = (shown[core].mean() - picture[around].mean() for shown in (picture, healed))
        assert before > 35  # grey levels, 11 HU
        assert abs(after) < 0.55 * before  # these lie beside bone, where the tissue itself is brighter
        far = np.ones_like(mask)
        rows, columns = np.nonzero(mask)
        far[rows.min() - 6 : rows.max() + 7, columns.min() - 6 : columns.max() + 7] = False
        assert (healed[far] == picture[far]).all()
        assert not (bleeds.traced(healed) & core).any()


def test_healed_tissue_has_the_noise_of_its_slice(slices, rng):
    for picture, _, _ in slices:
        mask, inside = bleeds.traced(picture), bleeds.brain(picture)
        healed = counterfactual.heal(picture, mask, inside, rng).astype(float)
        grain = np.abs(np.diff(healed, axis=1, prepend=0))
        around = inside & ~mask & (picture > 60) & (picture < 160)
        assert 0.5 < grain[mask].mean() / grain[around].mean() < 2.0


def test_a_transplanted_bleed_shows_where_it_is_said_to_be(slices, rng):
    picture, _, _ = slices[0]
    healthy = slices[1][2]
    bleed = counterfactual.lift(picture, bleeds.traced(picture), bleeds.brain(picture))
    inside = bleeds.brain(healthy)
    found = [counterfactual.transplant(healthy, counterfactual.varied(bleed, rng), inside, rng) for _ in range(12)]
    fitted = [each for each in found if each is not None]
    assert len(fitted) >= 6
    for changed, where, clear in fitted:
        rise = changed.astype(int) - healthy
        assert rise[where].mean() > 15
        assert (where & ~inside).sum() == 0
        assert np.abs(rise[~inside]).max() == 0  # bone and air stay as they are
        assert not clear or where.sum() >= counterfactual.LEAST_AREA


def test_a_bleed_that_would_lie_in_bone_is_not_transplanted(slices, rng):
    picture, _, healthy = slices[0]
    bleed = counterfactual.lift(picture, bleeds.traced(picture), bleeds.brain(picture))
    outside = counterfactual.Bleed(np.roll(bleed.rise, 90, 0), np.roll(bleed.mask, 90, 0))
    assert counterfactual.transplant(healthy, outside, bleeds.brain(healthy), rng) is None
    nothing = counterfactual.Bleed(np.zeros((224, 224), np.float32), np.zeros((224, 224), bool))
    assert counterfactual.transplant(healthy, nothing, bleeds.brain(healthy), rng) is None


@pytest.fixture
def listed(slices):
    pictures = [each[0] for each in slices] + [each[2] for each in slices]
    faint = slices[0][2]  # labelled as bleeding, and shows nothing
    presence = np.repeat([1, 0, 1], [len(slices), len(slices), 1])
    return labelled(presence, pictures=[*pictures, faint], location=np.where(presence == 1, 0, UNCLEAR))


def test_a_slice_labelled_as_bleeding_without_a_trace_becomes_unclear(listed):
    traced = enriching.trace(listed, processes=1)
    bleeding = np.flatnonzero(listed.presence == 1)[:-1]
    assert (traced.presence[bleeding] == 1).all()
    assert traced.blood[bleeding].any((1, 2)).all()
    assert traced.presence[-1] == traced.location[-1] == UNCLEAR
    assert not traced.traced[-1]
    assert traced.traced[:-1].all()
    assert not traced.blood[listed.presence == 0].any()


def test_rows_that_are_made_tell_whose_head_and_whose_blood_they_show(listed):
    enriched = enriching.enrich(listed, processes=1)
    traced, made = enriched.traced, enriched.made
    bleeding = int((traced.presence == 1).sum())
    healed = made.take(made.origin == ORIGINS.index("healed"))
    moved = made.take(made.origin == ORIGINS.index("transplanted"))
    assert len(healed) == bleeding
    assert (healed.presence == 0).all()
    assert not healed.blood.any()
    assert set(healed.patient) <= set(traced.patient[traced.presence == 1])
    assert len(moved) >= 1
    assert set(moved.patient) <= set(traced.patient[traced.presence == 0])
    assert moved.blood.any((1, 2)).all()
    assert (moved.location[moved.presence == 1] == 0).all()
    assert len(set(made.series) & set(traced.series)) == 0
    assert len(set(made.series)) == len(made)
    assert (made.patient == traced.patient[enriched.heads]).all()
    assert (enriched.donors[made.origin == ORIGINS.index("healed")] == np.flatnonzero(traced.presence == 1)).all()
    assert (traced.presence[enriched.donors] != 0).all()  # also of shams in the healthy, whose hole has a bleed's shape


def test_the_same_slices_make_the_same_rows_whatever_the_number_of_processes(listed):
    one, two = (enriching.enrich(listed, processes=count).made for count in (1, 2))
    assert (one.pictures == two.pictures).all()
    assert (one.presence == two.presence).all()


def test_of_what_is_made_only_that_trains_whose_head_and_blood_do(listed):
    enriched = enriching.enrich(listed, processes=1)
    moved = np.flatnonzero(enriched.made.origin == ORIGINS.index("transplanted"))
    head, donor = enriched.heads[moved[0]], enriched.donors[moved[0]]
    assert head != donor
    for apart in (head, donor):
        part = np.zeros(len(listed), np.int8)
        part[apart] = PARTS.index("test")
        divided = replace(enriched, traced=replace(enriched.traced, part=part))
        training = divided.trains()
        left = (enriched.heads != apart) & (enriched.donors != apart)
        assert 0 < len(training) == left.sum() < len(enriched.made)
        assert (training.pictures == enriched.made.pictures[left]).all()


def test_another_geometry_is_refused(listed):
    wide = replace(listed, pictures=np.zeros((len(listed), 256, 256), np.uint8))
    with pytest.raises(enriching.WrongGeometry, match="head-box"):
        enriching.enrich(wide)


def test_what_was_made_is_kept_for_the_same_slices_alone(listed, tmp_path, monkeypatch):
    path = tmp_path / "changed.npz"
    first = enriching.enrich_once(path, "these", listed, processes=1)
    monkeypatch.setattr(enriching, "enrich", None)  # must not be asked again
    again = enriching.enrich_once(path, "these", listed, processes=1)
    assert (first.traced.blood == again.traced.blood).all()
    assert (first.made.pictures == again.made.pictures).all()
    assert (first.donors == again.donors).all()
    with pytest.raises(TypeError):
        enriching.enrich_once(path, "others", listed, processes=1)
    path.write_bytes(path.read_bytes()[:1000])  # as a full disk may leave it
    with pytest.raises(TypeError):
        enriching.enrich_once(path, "these", listed, processes=1)


def test_what_is_kept_serves_another_split(listed, tmp_path, monkeypatch):
    path = tmp_path / "changed.npz"
    enriching.enrich_once(path, "these", listed, processes=1)
    monkeypatch.setattr(enriching, "enrich", None)
    part = np.full(len(listed), PARTS.index("test"), np.int8)
    part[: len(listed) // 2] = PARTS.index("train")
    divided = enriching.enrich_once(path, "these", replace(listed, part=part), processes=1)
    assert (divided.traced.part == part).all()
    assert set(divided.trains().patient) <= set(listed.patient[part == PARTS.index("train")])
    assert (divided.made.part == part[divided.heads]).all()
