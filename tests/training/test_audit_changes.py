"""What the audit does to pictures: blood goes and comes, everything else stays."""

import numpy as np
import pytest
from audited import block, drawn_slice, quiet

from train.audit import distractors, heads
from train.audit.healing import HEALERS, elsewhere, hole_of
from train.audit.probes import MID_GREY, blanked, blanked_with_noise, noise_alone, noise_inside, silhouette
from train.audit.stability import CHANGES
from train.audit.tissue import Anatomy, dilated, eroded, grain, head_of, look, residual
from train.audit.transplanting import BLENDERS, graft, sham
from train.audit.trust import GOOD, verdict


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def bleeding(rng):
    """A slice with its bleed, and the true mask."""
    picture, blood = drawn_slice(rng, small=False, noisy=False, bleeding=True)
    return look(picture), blood


@pytest.fixture
def normal(rng):
    return look(drawn_slice(rng, small=True, noisy=True, bleeding=False)[0])


@pytest.mark.parametrize("name", HEALERS)
def test_a_healer_leaves_tissue_where_there_was_blood(name, bleeding, rng):
    anatomy, blood = bleeding
    healed = HEALERS[name](anatomy, blood, rng)

    tissue = anatomy.picture[anatomy.tissue].astype(float)
    inside = healed[blood].astype(float)
    assert abs(inside.mean() - np.median(tissue)) < 0.1 * np.median(tissue)
    assert 0.6 < inside.std() / tissue.std() < 1.4  # the grain goes on
    assert look(healed).blood.sum() == 0
    far = ~dilated(blood, 4)
    assert (healed[far] == anatomy.picture[far]).all()


@pytest.fixture(scope="module")
def phantoms():
    return heads.bleeding(5, 0)


@pytest.mark.parametrize("name", HEALERS)
def test_a_healed_phantom_is_nearer_to_the_head_before_it_bled(name, phantoms, rng):
    assert len(phantoms) >= 2
    for ill, well, blood in zip(phantoms.with_it, phantoms.without, phantoms.mask, strict=True):
        healed = HEALERS[name](Anatomy(ill, look(ill).inside, blood), blood, rng)
        before, after = (np.abs(each[blood].astype(float).mean() - well[blood].mean()) for each in (ill, healed))
        assert after < 0.3 * before


def test_a_place_elsewhere_is_as_large_and_free_of_blood(bleeding, rng):
    anatomy, blood = bleeding
    allowed = anatomy.brain & ~dilated(blood, 6)
    for _ in range(20):
        other = elsewhere(blood, allowed, rng)
        assert other.sum() == blood.sum()
        assert not (other & ~allowed).any()
    assert elsewhere(blood, allowed & eroded(blood, 1), rng) is None


@pytest.mark.parametrize("name", BLENDERS)
def test_a_blender_brings_blood_and_a_sham_brings_none(name, bleeding, normal, rng):
    donor, _ = bleeding
    given = graft(donor, donor.blood, normal)
    other = sham(donor, donor.blood, normal, given.mask, rng)
    done, without = (BLENDERS[name](each, normal, rng) for each in (given, other))

    level = np.median(normal.picture[normal.tissue])
    core = eroded(given.mask, 1)
    assert done[core].mean() - level > 60  # grey levels, 19 HU; it had 33 HU
    assert abs(without[eroded(other.mask, 1)].mean() - level) < 15
    assert look(done).blood.sum() > 0.6 * given.mask.sum()
    assert look(without).blood.sum() == 0
    far = ~dilated(given.mask, 5)
    assert (done[far] == normal.picture[far]).all()


def even(inside):
    return Anatomy(np.where(inside, np.uint8(100), np.uint8(0)), inside, inside & False)


def middle(mask):
    return np.argwhere(mask).mean(0)


def test_a_graft_comes_to_the_same_place_of_the_brain_as_large_as_the_head_and_a_sham_to_where_the_bleed_went(rng):
    donor, blood = even(block(40, 50, 100, 100)), block(60, 90, 10, 10)
    for inside, size, place in (
        (block(90, 60, 100, 100), 1.0, (114.5, 104.5)),
        (block(60, 60, 150, 150), 1.5, (97, 127)),
    ):
        given = graft(donor, blood, even(inside))
        assert middle(given.mask) == pytest.approx(place, abs=0.6)
        assert given.mask.sum() == pytest.approx(100 * size**2, rel=0.15)
        other = sham(Anatomy(donor.picture, donor.inside, blood), blood, even(inside), given.mask, rng)
        assert middle(other.mask) == pytest.approx(middle(given.mask), abs=0.6)
    at = block(150, 100, 10, 10)
    assert middle(graft(donor, blood, even(block(90, 60, 100, 100)), at).mask) == pytest.approx(middle(at), abs=0.6)


def test_a_sham_beside_a_bleed_takes_nothing_of_its_brightness(rng):
    inside, blood, place = block(28, 28, 200, 200), block(100, 100, 20, 20), block(100, 127, 20, 8)
    picture = np.where(inside, np.uint8(100), np.uint8(0))
    picture[blood] = 200
    healed = HEALERS["membrane"](Anatomy(picture, inside, blood), place, rng)
    assert (np.abs(healed[place].astype(int) - 100) <= 1).all()


def test_what_is_healed_is_the_bleed_with_its_rim_but_no_bone():
    inside, blood = block(28, 28, 200, 200), block(40, 28, 20, 20)
    picture = np.where(inside, np.uint8(100), np.uint8(0))
    bone = block(61, 40, 2, 2)
    picture[bone] = 255
    assert (hole_of(Anatomy(picture, inside, blood), blood) == (dilated(blood, 3) & inside & ~bone)).all()


def test_a_graft_that_does_not_fit_is_none(bleeding, normal):
    donor, blood = bleeding
    assert graft(donor, dilated(blood, 40) & donor.inside, normal) is None
    tiny = Anatomy(normal.picture, eroded(normal.inside, 45), normal.blood)
    assert graft(donor, blood, tiny) is None


def test_only_bleeds_that_nobody_doubts_are_trusted(bleeding, normal):
    anatomy, blood = bleeding
    assert verdict(anatomy) == GOOD
    assert verdict(normal) == "no bleed segmented, or one too small"
    unseen = Anatomy(anatomy.picture, anatomy.inside, elsewhere_of(blood))
    assert verdict(unseen) in ("little contrast", "other dense places, perhaps blood")
    lime = anatomy.picture.copy()
    lime[blood] = 255
    assert verdict(Anatomy(lime, anatomy.inside, blood)) == "as dense as bone"
    rim = anatomy.inside & ~eroded(anatomy.inside, 3)
    assert verdict(Anatomy(anatomy.picture, anatomy.inside, rim & (np.arange(256) < 90))) != GOOD
    second = anatomy.picture.copy()
    second[dilated(elsewhere_of(blood), 0)] = 205
    assert verdict(Anatomy(second, anatomy.inside, blood)) == "other dense places, perhaps blood"


def test_a_clot_as_white_as_bone_is_blanked(bleeding, rng):
    anatomy, blood = bleeding
    dense = anatomy.picture.copy()
    dense[dilated(blood, 8) & anatomy.brain] = 255  # large and saturated: taken for bone by whoever traces bone
    for probe in (blanked, blanked_with_noise):
        left = probe(look(dense), rng)
        assert left[dilated(blood, 4)].max() < 200


def test_a_probe_keeps_one_thing_and_nothing_else(bleeding, rng):
    anatomy, blood = bleeding
    picture, inside = anatomy.picture, anatomy.inside
    head = head_of(picture)
    assert (silhouette(anatomy, rng) == np.where(head, MID_GREY, 0)).all()

    level = np.median(picture[inside])
    assert (blanked(anatomy, rng) == np.where(inside, np.rint(level), picture)).all()
    noisy = blanked_with_noise(anatomy, rng).astype(float)
    assert (noisy[~inside] == picture[~inside]).all()
    spread = residual(picture, anatomy.tissue)[1]
    rim = inside & ~anatomy.brain
    for part in (inside, blood, rim):
        assert noisy[part].mean() == pytest.approx(level, abs=0.3 * spread)
        assert noisy[part].std() == pytest.approx(spread, rel=0.3)

    for probe in (noise_inside, noise_alone):
        left = probe(anatomy, rng).astype(float)
        for part in (blood, anatomy.brain & ~dilated(blood, 4)):
            assert left[part].mean() == pytest.approx(MID_GREY, abs=0.3 * spread)
            assert left[part].std() == pytest.approx(spread, rel=0.3)
        if probe is noise_inside:
            assert (left[~anatomy.brain] == MID_GREY).all()
        else:
            assert left[~head].std() == pytest.approx(spread, rel=0.1)


def elsewhere_of(blood):
    """The same shape on the other side."""
    return blood[:, ::-1]


def test_made_noise_is_like_the_noise_of_the_slice(normal, rng):
    made = grain(normal, rng)
    own, spread = residual(normal.picture, eroded(normal.tissue, 1))
    assert made.std() == pytest.approx(spread, rel=0.25)

    def neighbours(noise):
        return np.corrcoef(noise[100:160, 100:159].ravel(), noise[100:160, 101:160].ravel())[0, 1]

    assert neighbours(made) == pytest.approx(neighbours(own), abs=0.2)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_keeps_the_head_in_view_and_the_rest_black(name, bleeding, rng):
    anatomy, _ = bleeding
    _, change, strengths, _ = CHANGES[name]
    for strength in strengths:
        changed = change(anatomy.picture, strength, rng)
        assert changed.dtype == np.uint8
        assert changed.shape == anatomy.picture.shape
        assert not (changed == anatomy.picture).all()
        edge = np.ones(changed.shape, bool)
        edge[16:-16, 16:-16] = False
        assert not changed[edge].any()
        if name in ("noise", "blur", "resampling", "window", "jpeg"):
            assert not changed[~head_of(anatomy.picture)].any()


def test_a_truncated_file_of_phantoms_is_made_again(tmp_path):
    made = []

    def make(number, _seed):
        made.append(number)
        picture = np.full((256, 256), number, np.uint8)
        return heads.pairs([picture], [picture], [picture > 0], number, 0)

    first = heads.made(tmp_path, "drawn", 2, 0, make, quiet)
    files = sorted(tmp_path.rglob("*.npz"))
    files[1].write_bytes(files[1].read_bytes()[:100])
    again = heads.made(tmp_path, "drawn", 2, 0, make, quiet)
    assert made == [0, 1, 1]
    assert (first.with_it == again.with_it).all()


def test_a_lookalike_changes_only_its_place():
    made = distractors.make(1, 0)
    assert set(made.kind.tolist()) >= set(range(5))
    for i in np.flatnonzero(made.kind < 5):  # lime; movement and hardening change everything
        difference = np.abs(made.with_it[i].astype(int) - made.without[i])
        assert difference[dilated(made.mask[i], 4)].max() > 20
        assert difference[~dilated(made.mask[i], 12)].max() < 20
