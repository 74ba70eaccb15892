"""The fast operations on masks against those that define them, on random masks of any size and density."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from dtvit.masking.morphology import Fast, Mask, Reference, finer, renamed, sizes

SQUARE = (0.9, 0.9)


def masks(count: int = 60) -> Iterator[Mask]:
    random = np.random.default_rng(5)
    for _ in range(count):
        shape = random.integers(3, 70, 2)
        yield np.asarray(random.random(shape) < random.random() ** 0.5)


@pytest.mark.parametrize("operation", ["fill", "parts", "deeper", "depth"])
def test_the_fast_operation_is_the_reference(operation: str) -> None:
    fast, slow = Fast(), Reference()
    for mask in masks():
        if mask.all() or not mask.any():
            continue
        if operation == "parts":
            (labels, count), (others, others_count) = fast.parts(mask), slow.parts(mask)
            assert count == others_count == len({*zip(labels[mask], others[mask], strict=True)})
        elif operation == "deeper":
            for least_mm in (0.5, 1.8, 2.7, 4.0):  # 1.8 and 2.7 are whole pixels: the border case
                assert (fast.deeper(mask, least_mm, SQUARE) == slow.deeper(mask, least_mm, SQUARE)).all()
        elif operation == "depth":
            assert np.allclose(fast.depth(mask, SQUARE), slow.depth(mask, SQUARE), atol=1e-4)
            assert np.allclose(fast.thickness(mask, SQUARE), slow.thickness(mask, SQUARE), rtol=0.02, atol=1e-4)
        else:
            assert (getattr(fast, operation)(mask) == getattr(slow, operation)(mask)).all()


def test_thickness_is_within_two_percent_of_the_distance_in_a_large_part() -> None:
    rows, columns = np.ogrid[:200, :180]
    for turn in np.linspace(0, np.pi / 2, 9):
        across, down = columns - 90, rows - 100
        u, v = across * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - across * np.sin(turn)
        part = np.asarray((np.abs(u) < 60) & (np.abs(v) < 70))
        exact = Reference().depth(part, SQUARE)
        assert np.allclose(Fast().thickness(part, SQUARE), exact, rtol=0.021)


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_finer_undoes_taking_every_so_manieth_pixel(step: int) -> None:
    random = np.random.default_rng(2)
    for shape in ((40, 61), (33, 7), (5, 5)):
        coarse = random.integers(0, 9, (-(-shape[0] // step), -(-shape[1] // step))).astype(np.uint8)
        fine = finer(coarse, step, shape)
        assert fine.shape == shape
        assert (fine == np.kron(coarse, np.ones((step, step), np.uint8))[: shape[0], : shape[1]]).all()


@pytest.mark.parametrize("count", [3, 255, 256, 70_000])
def test_labels_are_counted_and_renamed_alike_in_every_type(count: int) -> None:
    random = np.random.default_rng(1)
    kind: type[np.integer] = np.uint8 if count < 256 else np.uint16 if count < 65_536 else np.int32
    labels: npt.NDArray[np.integer] = random.integers(0, count + 1, (300, 300)).astype(kind)
    within = random.random(labels.shape) < 0.5
    assert (sizes(labels, count) == np.bincount(labels.ravel(), minlength=count + 1)).all()
    assert (sizes(labels, count, within) == np.bincount(labels[within], minlength=count + 1)).all()
    names = random.integers(0, 256, count + 1).astype(np.uint8)
    assert (renamed(labels, names) == names[labels]).all()
