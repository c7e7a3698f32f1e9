"""Whose photos: pairs of one person, and targets with a second photo to test with.

Accepted as they are:

    FACES/<name>_a.jpg, FACES/<name>_b.jpg                         --images FACES
    the paper's pairs: train_align/train_1.png, test_align/test_1.png
                                                                   --images assets/datasets/CelebA-HQ-500_pairs
    two folders with the same names                                --images ONE --pairs OTHER
    a table with the columns photo, other                          --images FOLDER --pairs pairs.csv
    single photos, in subfolders too (the paper's CelebA-HQ, LADN) --images FOLDER; then only impersonation is measured
    the paper's target_images and test_images                      --targets assets
    targets as pairs <name>_a.jpg, <name>_b.jpg                    --targets FOLDER
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ...checks import ProtectionError, errors_of, require
from ...photos.read import read_photo

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
SECOND = " second photo"  # what a person is called whose other photo is protected
PAPER_PAIRS = (("train_align", "test_align"), ("train", "test"))
Box = tuple[int, int, int, int]
# The AMT-GAN release's four targets, which the paper uses: shown to the optimiser, then tested with another photo of
# the person; the boxes (x0, y0, x1, y1, in pixels of the files) are those that the published code cuts out.
PAPER_TARGETS = {
    "1": (("005869.jpg", (205, 168, 765, 912)), ("008793.jpg", (202, 145, 775, 920))),
    "2": (("085807.jpg", (244, 187, 764, 891)), ("047073.jpg", (266, 234, 791, 905))),
    "3": (("116481.jpg", (188, 214, 773, 955)), ("055622.jpg", (198, 185, 780, 931))),
    "4": (("169284.jpg", (233, 173, 792, 925)), ("166607.jpg", (219, 172, 779, 917))),
}


@dataclass(frozen=True)
class Pair:
    """A person: the photo that is protected, and another one that the optimiser never sees, or None."""

    name: str
    photo: Path
    other: Path | None = None

    @property
    def swapped(self) -> Pair:
        """The same person with the other photo to be protected, under another name: the name of its files."""
        return Pair(f"{self.name}{SECOND}", self.other, self.photo)


@dataclass(frozen=True)
class Target:
    """Whom to look like: the photo for the optimiser and another one of the same person to test with, with the boxes
    that the published code cuts out of them, if it does."""

    name: str
    photo: Path
    test: Path
    photo_box: Box | None = None
    test_box: Box | None = None


def read_pairs(images: Path, pairs: Path | None = None) -> list[Pair]:
    """The people of a folder, in the order of their numbers.

    Raises:
        ProtectionError: no photos, or a table or folder that does not fit them.
    """
    require(images.is_dir(), f"the folder of images {images.name!r} does not exist", "check the name")
    if pairs is None:
        found = _from_one_folder(images)
    elif pairs.is_dir():
        found = _from_two_folders(images, pairs)
    else:
        found = _from_table(images, pairs)
    require(
        bool(found),
        f"there are no photos in {images.name!r} that the evaluation could use",
        "name them <name>_a.jpg and <name>_b.jpg, or see `python -m faceprotect_core evaluate --help`",
    )
    return sorted(found, key=lambda pair: _in_order(pair.name))


def _from_one_folder(images: Path) -> list[Pair]:
    for one, other in PAPER_PAIRS:
        if (images / one).is_dir() and (images / other).is_dir():
            return _from_two_folders(images / one, images / other)
    photos = _photos(images)
    names = [name.removesuffix("_a") for name in photos if name.endswith("_a")]
    others = [name for name in photos if not name.endswith(("_a", "_b"))]
    require(
        not names or not others,
        f"{images.name!r} has photos named <name>_a and others, the first is {others[:1]}",
        "name all of them <name>_a and <name>_b, or none",
    )
    if names:
        return [Pair(name, photos[f"{name}_a"], photos.get(f"{name}_b")) for name in names]
    return [Pair(name, path) for name, path in photos.items()]


def _from_two_folders(images: Path, others: Path) -> list[Pair]:
    """By name; the paper's train_1.png belongs to test_1.png."""
    second = {_number(stem): path for stem, path in _photos(others).items()}
    first = _photos(images)
    found = [Pair(_number(stem), path, second.get(_number(stem))) for stem, path in first.items()]
    require(
        len({pair.name for pair in found}) == len(found),
        f"two photos of {images.name!r} have the same name but for train_",
        "rename one of them",
    )
    alone = [pair.photo.name for pair in found if pair.other is None]
    require(
        not alone,
        f"{len(alone)} photos of {images.name!r} have no partner in {others.name!r}, the first is {alone[:1]}",
        "give both photos of a person the same name, or train_1.png and test_1.png",
    )
    return found


def _from_table(images: Path, table: Path) -> list[Pair]:
    require(table.is_file(), f"there is no folder and no table {table.name!r}", "name a folder, or a CSV file")
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except UnicodeDecodeError as error:
        raise ProtectionError(f"the table {table.name!r} is not UTF-8", "save it as CSV in UTF-8") from error
    require(
        all(row.get("photo") and row.get("other") for row in rows),
        f"the table {table.name!r} lacks the columns photo and other",
        "give it a first line photo,other and a pair of file names on each of the others",
    )
    found = []
    for row in rows:
        for name in (row["photo"], row["other"]):
            inside = (images / name).resolve().is_relative_to(images.resolve())
            require(
                inside and (images / name).is_file(),
                f"the table {table.name!r} names {name!r}, which is not in {images.name!r}",
                "give names of files, relative to the folder of images",
            )
        path = (images / row["photo"]).resolve().relative_to(images.resolve())
        name = "_".join(path.with_suffix("").parts)
        found.append(Pair(name, images / row["photo"], images / row["other"]))
    names = [pair.name for pair in found]
    require(len(set(names)) == len(names), f"two photos of {table.name!r} have the same name", "rename one of them")
    return found


def read_targets(folder: Path, count: int = 4) -> list[Target]:
    """The paper's four targets from its assets folder, or the first pairs of a folder of <name>_a, <name>_b."""
    shown, tested = folder / "target_images", folder / "test_images"
    if shown.is_dir() and tested.is_dir():
        found = []
        for name, ((photo, photo_box), (test, test_box)) in PAPER_TARGETS.items():
            for path in (shown / photo, tested / test):
                require(path.is_file(), f"the target {path.name} is missing", "complete the AMT-GAN release's assets")
            found.append(Target(name, shown / photo, tested / test, photo_box, test_box))
        return found[:count]
    pairs = [pair for pair in read_pairs(folder) if pair.other is not None]
    require(
        bool(pairs),
        f"no target in {folder.name!r} has a second photo, and impersonation is tested with another one",
        "name them <name>_a.jpg (for the optimiser) and <name>_b.jpg (for the test)",
    )
    return [Target(pair.name, pair.photo, pair.other) for pair in pairs[:count]]


def read_square(path: Path, size: int, box: Box | None = None) -> Tensor:
    """[1, 3, size, size] in [0, 1]: the whole photo, or the box of it, at the model's size, as the paper does it."""
    with errors_of(path.name):
        image = read_photo(path).image[None]
    if box is not None:
        x0, y0, x1, y1 = box
        image = image[..., y0:y1, x0:x1]
        require(image.numel() > 0, f"the box {box} lies outside of {path.name}", "use the photos of the release")
    if image.shape[-2:] == (size, size):
        return image
    return F.interpolate(image, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def _photos(folder: Path) -> dict[str, Path]:
    """Name -> file, in subfolders too, as the published code reads them; a file in one is called folder_file."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).with_suffix("").parts
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in parts):
            name = "_".join(parts)
            require(
                name not in found,
                f"two photos of {folder.name!r} have the same name, {name!r}",
                "rename one of them: results are kept by that name",
            )
            found[name] = path
    return found


def _number(stem: str) -> str:
    return re.sub(r"^(train|test)_", "", stem)


def _in_order(name: str) -> tuple:
    """12 comes after 2."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)], name
