"""Whose photos an evaluation uses: the layouts that people have, the paper's among them."""

import pytest
import torch
from PIL import Image

from faceprotect_core import ProtectionError
from faceprotect_core.evaluation.protocol.data import PAPER_TARGETS, Pair, read_pairs, read_square, read_targets


def put(folder, *names, size=(8, 6)):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (10, 20, 30)).save(path)


def named(pairs: list[Pair]) -> list[tuple]:
    return [(pair.name, pair.photo.name, pair.other and pair.other.name) for pair in pairs]


def test_two_photos_of_each_person_in_the_order_of_their_numbers(tmp_path):
    put(tmp_path, "10_a.jpg", "10_b.jpg", "2_a.jpg", "2_b.jpg", "3_a.png")
    (tmp_path / "notes.txt").write_text("no photo")
    expected = [("2", "2_a.jpg", "2_b.jpg"), ("3", "3_a.png", None), ("10", "10_a.jpg", "10_b.jpg")]
    assert named(read_pairs(tmp_path)) == expected


@pytest.mark.parametrize("one, other", [("train_align", "test_align"), ("train", "test")])
def test_the_papers_pairs_are_taken_as_they_are(tmp_path, one, other):
    put(tmp_path, f"{one}/train_1.png", f"{one}/train_12000.png", f"{other}/test_1.png", f"{other}/test_12000.png")
    expected = [("1", "train_1.png", "test_1.png"), ("12000", "train_12000.png", "test_12000.png")]
    assert named(read_pairs(tmp_path)) == expected
    assert named(read_pairs(tmp_path / one, tmp_path / other)) == expected


def test_single_photos_have_no_partner(tmp_path):
    put(tmp_path, "XMY-014.png", "before/XMY-136.png", ".thumbnails/XMY-136.png")
    assert named(read_pairs(tmp_path)) == [("XMY-014", "XMY-014.png", None), ("before_XMY-136", "XMY-136.png", None)]


def test_two_photos_of_one_name_are_an_error(tmp_path):
    put(tmp_path, "1_a.jpg", "1_a.png", "1_b.jpg")
    with pytest.raises(ProtectionError, match="the same name, '1_a'"):
        read_pairs(tmp_path)


def test_pairs_from_a_table(tmp_path):
    put(tmp_path, "ann.jpg", "more/ann at work.jpg")
    (tmp_path / "pairs.csv").write_text("photo,other\nann.jpg,more/ann at work.jpg\n")
    assert named(read_pairs(tmp_path, tmp_path / "pairs.csv")) == [("ann", "ann.jpg", "ann at work.jpg")]


@pytest.mark.parametrize(
    "table, what",
    [
        ("photo,second\nann.jpg,ann.jpg\n", "lacks the columns"),
        ("photo,other\nann.jpg,bob.jpg\n", "'bob.jpg', which is not in"),
        ("photo,other\nann.jpg,../secret.jpg\n", "which is not in"),
        ("photo,other\nann.jpg,ann.jpg\nann.jpg,ann.jpg\n", "the same name"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(tmp_path, table, what):
    put(tmp_path, "photos/ann.jpg", "secret.jpg")
    (tmp_path / "pairs.csv").write_text(table)
    with pytest.raises(ProtectionError, match=what):
        read_pairs(tmp_path / "photos", tmp_path / "pairs.csv")


def test_no_photos_and_no_partners_are_errors(tmp_path):
    with pytest.raises(ProtectionError, match="no photos"):
        read_pairs(tmp_path)
    with pytest.raises(ProtectionError, match="does not exist"):
        read_pairs(tmp_path / "nowhere")
    put(tmp_path, "train_align/train_1.png", "train_align/train_2.png", "test_align/test_1.png")
    with pytest.raises(ProtectionError, match="1 photos of 'train_align' have no partner"):
        read_pairs(tmp_path)


def test_the_papers_four_targets_with_other_photos_to_test_with(tmp_path):
    for (photo, _), (test, _) in PAPER_TARGETS.values():
        put(tmp_path, f"target_images/{photo}", f"test_images/{test}")
    targets = read_targets(tmp_path)
    assert [target.name for target in targets] == ["1", "2", "3", "4"]
    assert (targets[1].photo.name, targets[1].test.name) == ("085807.jpg", "047073.jpg")
    assert targets[1].photo_box == (244, 187, 764, 891)
    assert all(target.photo.name != target.test.name for target in targets)
    (tmp_path / "test_images/047073.jpg").unlink()
    with pytest.raises(ProtectionError, match=r"047073\.jpg is missing"):
        read_targets(tmp_path)


def test_targets_need_a_second_photo(tmp_path):
    put(tmp_path, *(f"{name}_{letter}.jpg" for name in "12345" for letter in "ab"), "6_a.jpg")
    assert [target.name for target in read_targets(tmp_path)] == ["1", "2", "3", "4"]
    put(tmp_path / "alone", "7_a.jpg")
    with pytest.raises(ProtectionError, match="second photo"):
        read_targets(tmp_path / "alone")


def test_a_photo_comes_at_the_models_size_and_a_box_is_cut_out_first(tmp_path):
    image = Image.new("RGB", (40, 20), (0, 0, 0))
    image.paste((255, 255, 255), (20, 0, 40, 20))
    image.save(tmp_path / "a.png")
    assert read_square(tmp_path / "a.png", 64).shape == (1, 3, 64, 64)
    assert torch.equal(read_square(tmp_path / "a.png", 20, (20, 0, 40, 20)), torch.ones(1, 3, 20, 20))
    with pytest.raises(ProtectionError, match="outside"):
        read_square(tmp_path / "a.png", 20, (50, 0, 60, 20))
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ProtectionError, match=r"b\.png"):
        read_square(tmp_path / "b.png", 20)
