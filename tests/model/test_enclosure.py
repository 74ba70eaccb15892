"""In how many directions bone is met, and which pieces are wide: fast ways against what defines them."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from dtvit.brain.enclosure import DIRECTIONS, GRID_MM, PIECE_RADIUS_MM, Mask, directions_with_bone, wide_pieces


def by_definition(bone: Mask) -> np.ndarray:
    """Bone seen from every cell up, down, left and right, in each of four turns of the whole grid."""
    rows, columns = bone.shape
    side = int(np.ceil(np.hypot(rows, columns))) | 1
    top, left = (side - rows) // 2, (side - columns) // 2
    square = np.zeros((side, side), np.uint8)
    square[top : top + rows, left : left + columns] = bone
    met = np.zeros((side, side), np.uint8)
    for turn in range(DIRECTIONS // 4):
        forth, back = (
            cv2.getRotationMatrix2D((side // 2, side // 2), angle * turn, 1.0)
            for angle in (360.0 / DIRECTIONS, -360.0 / DIRECTIONS)
        )
        turned = cv2.warpAffine(square, forth, (side, side), flags=cv2.INTER_NEAREST)
        count = np.zeros_like(turned)
        for flip in (np.s_[:, :], np.s_[::-1, :], np.s_[:, ::-1]):
            for axis in (0, 1):
                if flip in (np.s_[:, :], np.s_[::-1, :] if axis == 0 else np.s_[:, ::-1]):
                    count += np.maximum.accumulate(turned[flip], axis)[flip]
        met += cv2.warpAffine(count, back, (side, side), flags=cv2.INTER_NEAREST)
    return met[top : top + rows, left : left + columns]


@pytest.mark.parametrize("shape", [(125, 125), (60, 91), (91, 60), (250, 240)])
def test_the_directions_are_those_of_the_definition(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for share in (0.0, 0.001, 0.01, 0.2):
        for radius in (8, 25, 200):
            centre = random.integers(0, shape)
            near = np.hypot(rows - centre[0], columns - centre[1]) < radius
            bone = np.asarray((random.random(shape) < share) & near)
            found, expected = directions_with_bone(bone), by_definition(bone)
            # cells are turned to the nearest, which may be another one in a square of another size
            differ = np.abs(found.astype(int) - expected)[found > 0]
            assert differ.max(initial=0) <= 2
            assert differ.sum() <= 0.03 * bone.size
            assert (expected[found == 0] <= DIRECTIONS // 2).all()


def test_inside_a_skull_bone_is_met_everywhere_and_outside_in_half_the_directions_at_most() -> None:
    rows, columns = np.ogrid[:125, :125]
    distance = np.hypot((rows - 50) / 45, (columns - 70) / 36)
    met = directions_with_bone(np.asarray((distance > 0.92) & (distance < 1.0)))
    assert (met[distance < 0.85] == DIRECTIONS).all()
    assert (met[distance > 1.1] <= DIRECTIONS // 2).all()
    assert not directions_with_bone(np.zeros((40, 50), np.bool_)).any()


def test_a_wide_piece_holds_a_disk() -> None:
    random = np.random.default_rng(6)
    for _ in range(20):
        tissue = ndimage.gaussian_filter(random.standard_normal((80, 90)), 3) > 0.02
        found = wide_pieces(tissue)
        labels, count = ndimage.label(found)
        assert not (found & ~tissue).any()
        for i in range(1, count + 1):
            assert (
                cv2.distanceTransform((labels == i).astype(np.uint8), cv2.DIST_L2, 5).max() >= PIECE_RADIUS_MM / GRID_MM
            )
        left = tissue & ~found
        assert ndimage.distance_transform_edt(left).max() < PIECE_RADIUS_MM / GRID_MM + 1.5
    assert not wide_pieces(np.zeros((20, 20), np.bool_)).any()
