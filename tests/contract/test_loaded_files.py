"""Which file a node's text names: the one that Load Image would open, and never one outside ComfyUI's folders."""

import shutil

import pytest
from PIL import Image


@pytest.fixture
def folders(pack, tmp_path, monkeypatch):
    """ComfyUI's input and output folders with a photo each, and one photo outside that links in them lead to."""
    import folder_paths

    for name in ("input", "output", "temp"):
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
        (tmp_path / name / "sub").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    for name in ("input/a.png", "input/sub/b.png", "output/o.png", "temp/t.png"):
        shutil.copy(tmp_path / "outside.png", tmp_path / name)
    (tmp_path / "input" / "link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "input" / "sub" / "link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "input" / "way_out").symlink_to(tmp_path, target_is_directory=True)
    return tmp_path


@pytest.mark.parametrize(
    "text, file",
    [
        ("a.png", "input/a.png"),
        ("sub/b.png", "input/sub/b.png"),
        ("sub/../a.png [input]", "input/a.png"),
        ("o.png [output]", "output/o.png"),
        ("t.png [temp]", "temp/t.png"),
    ],
)
def test_the_file_that_load_image_opens_is_found(pack, folders, text, file):
    import folder_paths

    assert pack.host.file_of(text) == [folders / file]
    assert folder_paths.get_annotated_filepath(text) == str(folders / file)


ODD = [
    *("../outside.png", "../output/o.png", "../outside.png [output]", "link.png", "way_out/outside.png", "sub", ""),
    *(".", "..", "/", "none.png", "a\0.png", "\ud800.png", "x" * 5000, "a.png [else]", "\\\\host\\a.png", "~/a.png"),
]


@pytest.mark.parametrize("text", [*ODD, "{outside}"], ids=lambda text: ascii(text)[:20])
def test_nothing_outside_is_found_and_no_text_breaks_it(pack, folders, text):
    assert pack.host.file_of(text.format(outside=folders / "outside.png")) == []


def test_of_a_folder_its_own_files_are_found(pack, folders):
    assert pack.host.files_in("sub") == [folders / "input/sub/b.png"]
    assert not any(pack.host.files_in(text) for text in ("../output", "way_out", "/", "a.png", "\0", "x" * 5000))
