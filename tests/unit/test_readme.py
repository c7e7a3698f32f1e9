"""What README and docs say can be done as it stands there: examples and commands run, links lead somewhere."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from unit.models.test_load_diffusers import write_tiny_diffusers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_LINES = 150
HEAD = (132, 11, 312, 191)  # left, top, right, bottom
EXAMPLES = {
    f"{path.stem} {number}": code
    for path in (ROOT / "README.md", ROOT / "docs/library.md")
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
}
COMMANDS = re.findall(r"^    python -m (faceprotect_core .*)$", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the reader is, with a photo, its face as a square, a folder of photos, and a tiny Stable Diffusion."""
    photo = Image.fromarray(skimage.data.astronaut())
    photo.save(tmp_path / "me.png")
    photo.crop(HEAD).resize((192, 192)).save(tmp_path / "face.png")  # smaller than there: a minute less
    (tmp_path / "PHOTOS").mkdir()
    photo.save(tmp_path / "PHOTOS/me.png")
    write_tiny_diffusers(tmp_path / "stable-diffusion-2-base")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("code", EXAMPLES.values(), ids=list(EXAMPLES))
def test_the_example_runs_as_it_stands(folder, code):
    (folder / "example.py").write_text(code)
    ran = runpy.run_path(str(folder / "example.py"))
    before = ran["photo"] if hasattr(ran["photo"], "ndim") else ran["photo"].image
    assert ran["result"].image.shape == before.shape and not ran["result"].image.equal(before)
    assert ("write_photo" in code) == (folder / "me_protected.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs_as_it_stands(folder, monkeypatch, command):
    module, *arguments = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    assert not end.value.code
    assert (folder / "PROTECTED/me.png").is_file()


def test_the_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert COMMANDS and len(EXAMPLES) >= 3


def test_the_address_is_one():
    """A guess until the pack is published; whoever does it changes two lines."""
    manifest = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    address = tomllib.loads(manifest)["project"]["urls"]["Repository"]
    assert manifest.count(address) == 1
    assert PAGES[0].read_text(encoding="utf-8").count(address) == 1
    assert not [page.name for page in PAGES[1:] if address in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            name, _, part = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert not part or part in headings(target), link


def headings(page: Path) -> list[str]:
    """As GitHub names them in links."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines]


@pytest.mark.parametrize("command", ["demo", "test"])
def test_the_readme_names_what_the_makefile_has(command):
    readme, makefile = (ROOT.joinpath(name).read_text(encoding="utf-8") for name in ("README.md", "Makefile"))
    assert re.search(rf"^    make {command}\b", readme, re.MULTILINE)
    assert re.search(rf"^{command}:", makefile, re.MULTILINE)
