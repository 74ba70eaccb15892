"""The robust mode on phantoms whose head and holder are known, and on real heads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dtvit import brace, ct, preprocess
from dtvit.brain.judging import doubts
from dtvit.brain.regions import assign_regions
from dtvit.ct import CTSlice
from dtvit.masking import retracing, robust
from dtvit.masking.morphology import Fast, Reference
from dtvit.masking.retracing import Trace
from dtvit.phantom import PhantomSlice, PhantomSpec, draw, render_slice

SCAN = {"matrix": 512, "fov_mm": 250.0, "thickness_mm": 5.0, "spacing_mm": 5.0, "tilt_deg": 0.0}
MIDDLE = 0.6  # of the way up: vault


def phantom(shape: str, seed: int = 101, **holder: Any) -> PhantomSpec:
    """A head in a quiet scan, in a holder of this shape."""
    spec = draw(seed, "deep", shape=shape, age=60.0, kernel=0.4, noise_hu=3.5, **SCAN)
    plain = {"hand": False, "tubes": 0, "cushion": False, "shell_hu": 250.0, "gap_mm": 4.0}
    return replace(spec, holder=replace(spec.holder, **{**plain, **holder}))


def slice_of(spec: PhantomSpec, where: float = MIDDLE) -> PhantomSlice:
    return render_slice(spec, spec.positions_mm[int(where * (len(spec.positions_mm) - 1))])


def pixel_mm(spec: PhantomSpec) -> tuple[float, float]:
    return spec.scan.pixel_mm, spec.scan.pixel_mm


def left(found: npt.NDArray[np.bool_], truth: PhantomSlice) -> float:
    """Share of the visible holder that the mask keeps."""
    shown = truth.holder & (truth.hu > robust.LEVEL_HU)
    return float((shown & found).sum() / shown.sum())


@pytest.mark.parametrize(
    ("shape", "holder"),
    [
        ("thin cup", {}),
        ("thin cup", {"gap_mm": 0.0}),
        ("thin cup", {"gap_mm": -4.0, "shell_mm": 4.0}),
        ("thick cup", {"shell_mm": 12.0, "shell_hu": 100.0}),
        ("U", {}),
        ("ring", {}),
        ("double cup", {"gap_mm": 0.0}),
        ("pillow", {"cushion": True}),
        ("U", {"tubes": 3, "hand": True}),
    ],
)
def test_the_holder_goes_and_the_brain_stays(shape: str, holder: dict[str, Any]) -> None:
    spec = phantom(shape, **holder)
    for where in (0.35, 0.6, 0.8):
        truth = slice_of(spec, where)
        found = robust.decide(truth.hu, pixel_mm(spec))
        assert left(found.mask, truth) < 0.03
        assert found.mask[truth.brain].all()


def test_a_holder_fused_to_a_thin_scalp_is_cut_off_and_that_is_said() -> None:
    spec = phantom("thin cup", gap_mm=-10.0, shell_mm=5.0, side_mm=0.0)
    spec = replace(spec, head=replace(spec.head, scalp_mm=2.8))
    said: set[str] = set()
    for where in (0.35, 0.4, 0.45, 0.55):
        truth = slice_of(spec, where)
        found = robust.decide(truth.hu, pixel_mm(spec))
        assert left(found.mask, truth) < 0.1
        assert found.mask[truth.brain].all()
        said |= set(found.flags)
    assert robust.CUT in said


def test_noise_does_not_make_a_sieve_of_the_brain() -> None:
    spec = phantom("thick cup")
    spec = replace(spec, scan=replace(spec.scan, kernel=0.8, noise_hu=11.0, thickness_mm=1.25))
    for where in (0.3, 0.5, 0.7):
        truth = slice_of(spec, where)
        assert robust.decide(truth.hu, pixel_mm(spec)).mask[truth.brain].all()


def test_soft_padding_on_the_skin_stays_and_is_told() -> None:
    spec = phantom("none")
    truth = slice_of(spec)
    to_head = Fast().depth(~truth.head, pixel_mm(spec))
    gel = (to_head > 0.0) & (to_head < 25.0)
    gel[: int(0.65 * len(gel))] = False
    assert robust.LYING not in robust.decide(truth.hu, pixel_mm(spec)).flags
    found = robust.decide(np.where(gel, np.float32(35.0), truth.hu), pixel_mm(spec))
    assert robust.LYING in found.flags
    assert found.mask[gel].mean() > 0.5
    assert found.mask[truth.brain].all()


def series(spec: PhantomSpec, every: int = 3) -> tuple[list[PhantomSlice], list[CTSlice]]:
    truths = [render_slice(spec, position) for position in spec.positions_mm[::every]]
    return truths, [
        CTSlice("1", str(i), i, None, t.hu, pixel_mm(spec), 5.0, t.position_mm, (1, 0, 0, 0, 1, 0), 0.0)
        for i, t in enumerate(truths)
    ]


def test_the_neighbours_settle_the_vertex_and_the_holder_alone_and_nothing_else_changes() -> None:
    truths, slices = series(phantom("thick cup", shell_mm=14.0, shell_hu=120.0))
    first = [preprocess.prepare(s) for s in slices]
    refined = preprocess.refine(slices, first)
    top = len(slices) - 1
    assert not truths[top].head.any()  # the holder alone
    assert first[top].mask.any()
    assert not refined[top].mask.any()
    assert robust.FOLLOWED in refined[top].flags
    assert robust.NO_HEAD in refined[top].flags
    kept = [before is after for before, after in zip(first, refined, strict=True)]
    assert sum(kept) > len(kept) / 2  # what was inferred from these stands
    for truth, after in zip(truths, refined, strict=True):
        assert after.mask[truth.brain].all()
        assert left(after.mask, truth) < 0.05


@pytest.mark.parametrize("seed", [5, 308153384], ids=["below", "above"])
def test_a_slice_that_broke_off_costs_none_of_those_beyond_it(seed: int) -> None:
    """What is left of it is too small for the head of the next slice to follow from."""
    spec = draw(seed, None, **SCAN | {"matrix": 256})
    truths, slices = series(spec, every=2)
    hu = slices[6].hu.copy()
    hu[hu.shape[0] // 2 :] = -1024.0
    slices[6] = replace(slices[6], hu=hu)
    refined = preprocess.refine(slices, [preprocess.prepare(s) for s in slices])
    others = [i for i in range(len(slices)) if i != 6]
    assert all(refined[i].mask[truths[i].brain].all() for i in others)


@pytest.mark.parametrize("spoilt", [7, 14, 22])
def test_a_slice_of_a_patient_that_broke_off_costs_itself_alone(shared_data: Path, spoilt: int) -> None:
    paths = (shared_data / "head-ct" / "ge_hispeed_human_28").glob("*.dcm")
    slices = ct.order([s for path in paths for s in ct.read(path)])
    first = [preprocess.prepare(s) for s in slices]
    whole = preprocess.refine(slices, first)
    hu = slices[spoilt].hu.copy()
    hu[hu.shape[0] // 2 :] = -1024.0
    slices[spoilt] = replace(slices[spoilt], hu=hu)
    first[spoilt] = preprocess.prepare(slices[spoilt])
    refined = preprocess.refine(slices, first)
    changed = [not np.array_equal(a.mask, b.mask) for a, b in zip(refined, whole, strict=True)]
    assert [i for i, one in enumerate(changed) if one] == [spoilt]
    contents = [one.content for one in refined]
    assert doubts(contents, assign_regions(contents))


@pytest.mark.parametrize("everywhere", [-1024.0, 40.0])
def test_a_slice_of_one_grey_tells_nothing_of_the_others(everywhere: float) -> None:
    _, slices = series(phantom("thick cup", shell_mm=12.0, shell_hu=100.0))
    whole = preprocess.refine(slices, [preprocess.prepare(s) for s in slices])
    at = len(slices) // 2
    broken = [*slices[:at], replace(slices[at], hu=np.full_like(slices[at].hu, everywhere)), *slices[at + 1 :]]
    refined = preprocess.refine(broken, [preprocess.prepare(s) for s in broken])
    assert not refined[at].mask.any()
    changed = [not np.array_equal(a.mask, b.mask) for a, b in zip(refined, whole, strict=True)]
    assert [i for i, one in enumerate(changed) if one] == [at]


def test_a_hand_beside_the_head_goes_with_the_series() -> None:
    truths, slices = series(phantom("thin cup", hand=True))
    refined = preprocess.refine(slices, [preprocess.prepare(s) for s in slices])
    assert max(left(after.mask, truth) for truth, after in zip(truths, refined, strict=True)) < 0.05


def test_paper_mode_needs_no_second_look() -> None:
    _, slices = series(phantom("U"))
    first = [preprocess.prepare(s, "paper") for s in slices[4:8]]
    assert all(a is b for a, b in zip(first, preprocess.refine(slices[4:8], first, "paper"), strict=True))


def test_a_head_that_fills_the_picture_is_kept() -> None:
    spec = phantom("none")
    truth = slice_of(spec)
    rows, columns = np.flatnonzero(truth.brain.any(1)), np.flatnonzero(truth.brain.any(0))
    window = np.s_[rows[0] + 10 : rows[-1] - 10, columns[0] + 10 : columns[-1] - 10]
    found = robust.decide(np.ascontiguousarray(truth.hu[window]), pixel_mm(spec))
    assert found.mask[truth.brain[window]].mean() > 0.999  # a sulcus that the border opens is dark either way


def test_air_has_no_head() -> None:
    found = robust.decide(np.full((256, 256), -1000.0, np.float32), (0.5, 0.5))
    assert not found.mask.any()
    assert found.flags == (robust.NO_HEAD,)


@pytest.mark.parametrize("matrix", [256, 512, 1024])
def test_the_matrix_does_not_matter(matrix: int) -> None:
    spec = phantom("thin cup")
    spec = replace(spec, scan=replace(spec.scan, matrix=matrix))
    truth = slice_of(spec)
    found = robust.decide(truth.hu, pixel_mm(spec))
    assert left(found.mask, truth) < 0.01
    assert found.mask[truth.brain].all()


HEAD, FAR, CHIN = (slice(20, 80), slice(20, 80)), (slice(3, 13), slice(3, 13)), (slice(83, 95), slice(40, 60))
"""Parts of a slice as `retrace` sees them: (row, column) of cells of 2 mm; CHIN lies three cells below HEAD."""


def traced(*parts: tuple[slice, slice], accepted: set[int], depths: tuple[float, ...] = (), **changed: Any) -> Trace:
    """Of a slice that shows these parts; the first is as deep as a vault unless `depths` are given."""
    labels = np.zeros((100, 100), np.uint8)
    for i, part in enumerate(parts, 1):
        labels[part] = i
    known = depths or (60.0, *[6.0] * (len(parts) - 1))
    return replace(Trace(labels, (2.0, 2.0), known, frozenset(accepted)), **changed)


def retraced(*traces: Trace) -> list[set[int]]:
    return [set(parts) for parts in retracing.retrace(traces)]


VAULT = traced(HEAD, accepted={1})


def test_what_lies_within_the_head_of_the_next_slice_follows_and_no_more() -> None:
    """Both ways, slice by slice; half of a part is enough, and so is a gap as wide as outlines move."""
    more, less = ((slice(30, 70), slice(at, at + 30)) for at in (67, 69))  # 16 and 14 of 30 columns
    for part, follows in ((HEAD, True), (more, True), (less, False), (CHIN, False)):
        apart = traced(FAR, part, accepted={1}, depths=(8.0, 8.0))
        expected = {2} if follows else set()
        assert retraced(VAULT, apart)[1] == expected
        assert retraced(apart, VAULT)[0] == expected


def test_a_vault_is_added_nothing_to_and_a_slice_in_several_parts_is() -> None:
    lobes = (slice(20, 78), slice(20, 48)), (slice(20, 78), slice(52, 80))
    assert retraced(VAULT, traced(*lobes, accepted={1}, depths=(30.0, 27.0)), VAULT)[1] == {1}
    assert retraced(VAULT, traced(*lobes, accepted={1}, depths=(24.0, 23.0)))[1] == {1, 2}
    assert retraced(VAULT, traced(FAR, HEAD, accepted={1}, depths=(30.0, 27.0)), VAULT)[1] == {2}


def test_nothing_follows_from_a_shell_where_there_is_a_head() -> None:
    """The holder beside it, which was taken for head with it, is thin: what lies below it is no head for that."""
    wall = (slice(20, 80), slice(86, 90))
    both = traced(HEAD, wall, accepted={1, 2})
    assert retraced(both, traced(HEAD, wall, accepted={1, 2}, depths=(20.0, 4.0)))[1] == {1}


def test_what_only_the_slice_beyond_shows_to_be_head_is_added() -> None:
    """A chin apart from the head in one slice, one with it in the next."""
    one = (slice(20, 95), slice(20, 80))
    apart = traced(HEAD, CHIN, accepted={1}, depths=(24.0, 8.0))
    jaw = traced(one, accepted={1}, depths=(24.0,))
    assert retraced(VAULT, apart, jaw)[1] == {1, 2}
    assert retraced(jaw, apart, VAULT)[1] == {1, 2}
    assert retraced(jaw, apart, apart, VAULT)[1:3] == [{1, 2}, {1, 2}]
    assert retraced(VAULT, apart, VAULT)[1] == {1}
    throat = traced((slice(78, 88), slice(40, 60)), accepted={1}, depths=(9.0,))
    assert retraced(VAULT, apart, throat) == [{1}, {1, 2}, {1}], "what the vault shows stays"


def test_without_a_vault_each_slice_stands_as_it_was_decided() -> None:
    alone = [traced(FAR, HEAD, accepted={1}, depths=(24.0, 24.0)), traced(HEAD, accepted={1}, depths=(24.9,))]
    assert retraced(*alone) == [{1}, {1}]
    assert retraced() == []


@pytest.mark.parametrize("changed", [{"cell_mm": (2.0, 2.1)}, {"labels": VAULT.labels[:, :-1]}])
def test_nothing_follows_beyond_a_change_of_matrix_or_pixels(changed: dict[str, Any]) -> None:
    other, cup = replace(VAULT, **changed), traced(FAR, HEAD, accepted={1}, depths=(8.0, 8.0))
    assert retraced(VAULT, cup, other, cup) == [{1}, {2}, {1}, {1}]


@pytest.mark.parametrize(("depth_mm", "expected"), [(13.0, {1}), (11.0, {3})])
def test_beyond_a_spoilt_slice_a_solid_head_follows_from_the_thickest_and_a_shell_does_not(
    depth_mm: float, expected: set[int]
) -> None:
    """What is left of the spoilt one is a chin, and what follows from that is no head."""
    first, spoilt = traced((slice(20, 95), slice(20, 80)), accepted={1}), traced(CHIN, accepted={1}, depths=(9.0,))
    above, cushion = (slice(20, 60), slice(20, 80)), (slice(64, 76), slice(20, 80))
    beyond = traced(above, cushion, CHIN, accepted={1}, depths=(depth_mm, 8.0, 8.0))
    assert retraced(first, spoilt, beyond)[2] == expected
    assert retraced(first, spoilt, traced(FAR, accepted={1}, depths=(depth_mm,)))[2] == set()


def test_a_slice_that_shows_no_head_is_passed_over() -> None:
    empty, lobes = traced(accepted=set()), traced(FAR, HEAD, accepted={1}, depths=(8.0, 8.0))
    assert retraced(VAULT, empty, lobes) == [{1}, set(), {2}]


def dice(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum())) if a.any() or b.any() else 1.0


def test_the_fast_operations_give_the_reference_mask() -> None:
    for shape, holder in (
        ("thin cup", {"gap_mm": -4.0}),
        ("ring", {"gap_mm": -6.0, "side_mm": 0.0}),
        ("U", {"hand": True}),
    ):
        spec = phantom(shape, **holder)
        for where in (0.1, 0.3, 0.5, 0.8, 0.95):
            hu = slice_of(spec, where).hu
            fast, slow = (robust.decide(hu, pixel_mm(spec), by=by) for by in (Fast(), Reference()))
            assert dice(fast.mask, slow.mask) >= 0.999
            assert fast.flags == slow.flags


def real(shared_data: Path, folder: str) -> list[CTSlice]:
    return ct.order([s for path in (shared_data / "head-ct" / folder).glob("*.dcm") for s in ct.read(path)])


def test_the_fast_operations_give_the_reference_mask_on_real_slices(shared_data: Path) -> None:
    for folder in ("ge_hispeed_human_28", "philips_phantom_5mm_28", "philips_phantom_tilt-18.5_9", "odd_single"):
        for s in real(shared_data, folder)[::3]:
            fast, slow = (robust.decide(s.hu, s.pixel_mm, by=by).mask for by in (Fast(), Reference()))
            assert dice(fast, slow) >= 0.999


def test_both_modes_agree_on_the_human_head_from_the_petrous_bone_up(shared_data: Path) -> None:
    slices = real(shared_data, "ge_hispeed_human_28")
    refined = preprocess.refine(slices, [preprocess.prepare(s) for s in slices])
    for s, after in list(zip(slices, refined, strict=True))[9:27]:
        paper = brace.find_head(s.hu, s.pixel_mm, "paper").mask
        skull = Fast().fill(paper & (s.hu > 200.0))  # bone and all it encloses
        assert dice(after.mask & skull, paper & skull) >= 0.998
        assert dice(after.mask, paper) >= 0.995


def test_the_human_head_comes_without_its_holder_and_with_all_its_parts(shared_data: Path) -> None:
    """The holder's two rails stand left and right of the head, below 60 % of the picture's height and outside it."""
    slices = real(shared_data, "ge_hispeed_human_28")
    refined = preprocess.refine(slices, [preprocess.prepare(s) for s in slices])
    for s, after in zip(slices, refined, strict=True):
        rails = (s.hu[260:420] > 100.0) & ~after.mask[260:420]
        assert rails[:, :75].sum() + rails[:, -75:].sum() > 0 or s.instance_number in range(13, 24)
        assert not after.mask[:, :50].any()
        assert not after.mask[:, -55:].any()
    posterior_fossa = refined[6].mask  # in two parts at the skull base: nothing of it may be lost
    assert posterior_fossa[330:350, 180:300].all()


def test_the_dry_skull_keeps_no_holder_and_its_last_slice_shows_no_head(shared_data: Path) -> None:
    slices = real(shared_data, "philips_phantom_5mm_28")
    refined = preprocess.refine(slices, [preprocess.prepare(s) for s in slices])
    for after in refined:
        assert not after.mask[:, :25].any()  # the sides of the U
        assert not after.mask[:, -25:].any()
        assert not after.mask[-15:].any()
    assert not refined[-1].mask.any()
    assert robust.NO_HEAD in refined[-1].flags
    assert refined[23].mask[256, 256]  # the closed calvaria, filled
