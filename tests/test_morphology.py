"""The fast operations on masks against those that define them, on random masks of any size and density."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from dtvit.morphology import Fast, Mask, Reference, renamed, sizes

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
        else:
            assert (getattr(fast, operation)(mask) == getattr(slow, operation)(mask)).all()


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
