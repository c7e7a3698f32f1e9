"""The house: rooms on floors, imports that point down, no circles, nothing too long, and a page that says so."""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "faceprotect_core"
# From the ground up. A room imports rooms of lower floors, and itself.
FLOORS = (
    ("checks", "openmp"),
    ("ciede2000", "files", "pixels", "progress", "protocols", "replaced", "same_padding"),
    ("faces",),
    ("surrogates",),
    ("method",),
    ("attacks", "instant", "speed"),
    ("diffusers_backend",),
    ("demo",),
    ("models", "verify"),
    ("photos",),
    ("jobs",),
    ("folders",),
    ("conversion", "evaluation"),
    ("__main__",),
)
NODES_MAY_NOT = {"evaluation", "folders", "jobs", "conversion", "diffusers_backend", "__main__"}
# What is there where ComfyUI is: its own packages, and those of its requirements.txt that it cannot start without.
OF_COMFYUI = {
    *("comfy", "comfy_api", "comfy_execution", "folder_paths", "nodes", "server"),
    *("torch", "numpy", "pillow", "transformers"),
}
DISTRIBUTIONS = {"PIL": "pillow", "skimage": "scikit_image", "google": "onnx"}  # google.protobuf comes with onnx
FILES_IN_A_FOLDER, LINES, LINES_OF_THE_HOST, LINES_OF_TESTS = 12, 350, 300, 450


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for folder in (CORE, ROOT / "nodes") for path in sorted(folder.rglob("*.py"))}


def imported(module: str) -> set[str]:
    """The pack's modules that one imports: anywhere in it, in functions and for type checkers too."""
    found, package = set(), module.split(".") if PATHS[module].name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(PATHS[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            source = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{source}.{alias.name}".lstrip(".") for alias in node.names}
            found |= {name if name in PATHS else source for name in names}
    return found & set(PATHS) - {module}


IMPORTS = {module: imported(module) for module in PATHS}


def third_party(module: str) -> set[str]:
    """The packages outside the pack that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(PATHS[module].read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        found |= {name.split(".")[0] for name in names}
    return found - sys.stdlib_module_names


def declared(requirements: Iterable[str]) -> set[str]:
    return {re.match(r"[\w-]+", line).group().lower().replace("-", "_") for line in requirements}


def room_of(module: str) -> str:
    return (module.split(".") + [""])[1]


def test_every_room_has_a_floor_and_every_floor_its_rooms():
    rooms = {room_of(module) for module in PATHS if module.startswith("faceprotect_core.")}
    assert rooms == {room for floor in FLOORS for room in floor}


@pytest.mark.parametrize("module", [module for module in PATHS if module.startswith("faceprotect_core.")])
def test_imports_point_down(module):
    height = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    own = room_of(module)
    for other in IMPORTS[module]:
        room = room_of(other)
        assert room == own or height[room] < height[own], f"{module} imports {other}"


@pytest.mark.parametrize("module", [module for module in PATHS if module.startswith("nodes")])
def test_nodes_import_no_commands(module):
    core = {room_of(other) for other in IMPORTS[module] if other.startswith("faceprotect_core")}
    assert not core & NODES_MAY_NOT


def test_every_imported_package_is_declared_or_comes_with_comfyui():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    always = declared((ROOT / "requirements.txt").read_text(encoding="utf-8").split()) | OF_COMFYUI
    extras = declared(name for names in project["optional-dependencies"].values() for name in names)
    for module in PATHS:
        missing = {DISTRIBUTIONS.get(name, name) for name in third_party(module)} - always
        assert missing <= (set() if module.startswith("nodes") else extras), module


def test_there_is_no_circle():
    left = {module: set(others) for module, others in IMPORTS.items()}
    while left:
        leaves = {module for module, others in left.items() if not others & set(left)}
        assert leaves, f"a circle among {sorted(left)}"
        for module in leaves:
            del left[module]


def test_no_folder_of_the_core_has_too_many_files():
    assert not {
        str(one): n for one, n in Counter(p.parent for p in CORE.rglob("*.py")).items() if n > FILES_IN_A_FOLDER
    }


def test_no_file_is_too_long():
    def limit(path: Path) -> int:
        folder = path.relative_to(ROOT).parts[:2]
        return LINES_OF_TESTS if folder[0] == "tests" else LINES_OF_THE_HOST if folder == ("nodes", "host") else LINES

    paths = [*PATHS.values(), *(ROOT / "tests").rglob("*.py"), ROOT / "__init__.py"]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert not {str(path): count for path, count in lines.items() if count > limit(path)}


def test_the_page_draws_these_floors_and_no_others():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"```floors\n(.*?)```", page, re.DOTALL).group(1)
    drawn = [set(line.split("  ")[0].split(", ")) for line in block.splitlines()]
    assert drawn[::-1] == [set(floor) for floor in FLOORS]
