"""Slightly wrong alignments: repeatable, the same for every image of a batch, small, and similarities of the right
one."""

import numpy as np
import pytest
import torch

from faceprotect_core import AlignmentJitter, ProtectionError
from faceprotect_core.faces import Face, align_face, chip_to_image
from faceprotect_core.faces.again import moved


def step(right: Face, wrong: Face) -> np.ndarray:
    """The similarity [2, 3] between the two faces' landmarks, found from the first two points of them."""
    (a, b), (c, d) = (np.array(one.landmarks, dtype=float)[[0, 2]] @ [1, 1j] for one in (right, wrong))
    turn = (d - c) / (b - a)
    shift = c - turn * a
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def test_without_copies_it_is_off():
    assert AlignmentJitter().copies == 0


def test_without_spread_the_alignment_is_the_right_one(face):
    wrong = AlignmentJitter(1, spread=(0.0, 0.0))(face, 3)
    assert np.allclose(wrong.landmarks, face.landmarks) and np.allclose(wrong.mesh, face.mesh)


def test_the_same_numbers_give_the_same_alignment_and_others_another(face):
    def eye(seed=0, *draw):
        return AlignmentJitter(1, seed=seed)(face, *draw).landmarks[0]

    assert eye(0, 1, 0, 0) == eye(0, 1, 0, 0)
    others = [eye(0, 2, 0, 0), eye(0, 1, 1, 0), eye(0, 1, 0, 1), eye(1, 1, 0, 0)]
    assert len({eye(0, 1, 0, 0), *others}) == 5


def test_a_face_is_only_moved_turned_and_scaled(face):
    """Landmarks and mesh alike: both ways to align see the same mistake. The box stays."""
    wrong = AlignmentJitter(1, spread=(0.05, 0.05))(face, 4)
    similarity = step(face, wrong)
    for here, there in ((face.landmarks, wrong.landmarks), (face.mesh, wrong.mesh)):
        assert np.allclose(np.array(here) @ similarity[:, :2].T + similarity[:, 2], there, atol=1e-6)
    assert wrong.box_xyxy == face.box_xyxy and wrong.score == face.score
    assert not np.allclose(chip_to_image(face, "arcface_112"), chip_to_image(wrong, "arcface_112"))


def test_it_turns_scales_and_shifts_by_as_much_as_it_says(face):
    """Of 2000 alignments with a spread of 0.06: radians, shares, and widths of the face's points."""
    spread, draws = 0.06, 2000
    jitter = AlignmentJitter(1, spread=(spread, spread))
    found = [step(face, jitter(face, number)) for number in range(draws)]
    middle, width = np.array(face.landmarks).mean(0), np.ptp(np.array(face.landmarks)[:, 0])
    angles = [np.arctan2(one[1, 0], one[0, 0]) for one in found]
    scales = [np.hypot(*one[:, 0]) - 1 for one in found]
    shifts = np.array([one[:, :2] @ middle + one[:, 2] - middle for one in found]) / width
    for values in (angles, scales, shifts[:, 0], shifts[:, 1]):
        assert np.std(values) == pytest.approx(spread, rel=0.1)
        assert abs(np.mean(values)) < 4 * spread / np.sqrt(draws)


def test_between_two_spreads_most_alignments_lie_between(face):
    jitter = AlignmentJitter(1, spread=(0.0, 0.06))
    sizes = [np.abs(np.subtract(jitter(face, n).landmarks, face.landmarks)).max() for n in range(400)]
    widest = [np.abs(np.subtract(AlignmentJitter(1, (0.06, 0.06))(face, n).landmarks, face.landmarks)).max()
              for n in range(400)]  # fmt: skip
    assert 0.3 < np.mean(sizes) / np.mean(widest) < 0.7
    assert min(sizes) < 0.1 * np.mean(widest)


def test_a_batch_has_the_alignments_that_single_images_have(face):
    faces = [face, moved(face, 30, 10)]
    together = AlignmentJitter(1)(faces, 2, 1, 0)
    for one, wrong in zip(faces, together, strict=True):
        assert wrong.landmarks == AlignmentJitter(1)(one, 2, 1, 0).landmarks
    assert np.allclose(np.subtract(together[1].landmarks, together[0].landmarks), (30, 10))


def test_a_face_without_a_mesh_stays_without(face):
    plain = Face(face.box_xyxy, face.score, face.landmarks)
    assert AlignmentJitter(1)(plain, 0).mesh is None


def test_drawing_leaves_other_random_numbers_alone(face):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    AlignmentJitter(2)(face, 1, 2, 3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_a_wrong_chip_lets_the_gradient_through_to_the_face(astronaut, face):
    image = astronaut[None].clone().requires_grad_(True)
    chip = align_face(image, AlignmentJitter(1)(face, 3), "arcface_112")
    (gradient,) = torch.autograd.grad(chip.square().sum(), image)
    assert torch.isfinite(gradient).all() and (gradient[0, :, 80:160, 190:240] != 0).all()


@pytest.mark.parametrize("wrong", [{"copies": -1}, {"spread": (0.06, 0.0)}, {"spread": (-0.1, 0.06)}], ids=str)
def test_what_cannot_be_is_refused_with_a_remedy(wrong):
    with pytest.raises(ProtectionError, match="AlignmentJitter: copies is .*How to fix: "):
        AlignmentJitter(**({"copies": 1} | wrong))
