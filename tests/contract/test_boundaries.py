"""Imports point down only, and the pack does nothing that a registry, or a worried person, would refuse."""

import ast
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]
CORE = sorted((PACK / "faceprotect_core").rglob("*.py"))
NODES = sorted((PACK / "nodes").glob("*.py"))
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server", "execution"}
NETWORK = {"socket", "ssl", "urllib", "http", "requests", "aiohttp", "httpx", "ftplib", "smtplib", "huggingface_hub"}
REFUSED = NETWORK | {"subprocess", "multiprocessing", "pickle", "ctypes", "importlib", "runpy", "pty"}
HEAVY = {"diffusers", "kornia", "einops", "PIL", "torchvision", "transformers", "scipy", "cv2", "skimage", "tqdm"}
SCRIPTS = {"demo/train.py", "demo/evaluate.py"}  # commands, imported by nothing that ComfyUI loads


def imported(tree: ast.AST, top_level_only: bool = False) -> set[str]:
    """First names of the absolute imports."""
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def parse(path: Path) -> ast.AST:
    return ast.parse(path.read_text(), str(path))


def names(paths):
    return [str(path.relative_to(PACK)) for path in paths]


@pytest.mark.parametrize("path", CORE, ids=names(CORE))
def test_the_core_knows_nothing_of_comfyui(path):
    assert not imported(parse(path)) & COMFYUI


@pytest.mark.parametrize("path", NODES, ids=names(NODES))
def test_only_the_host_file_touches_comfyuis_internals(path):
    allowed = COMFYUI if path.name == "host.py" else {"comfy_api"}
    assert imported(parse(path)) & COMFYUI <= allowed


@pytest.mark.parametrize("path", CORE + NODES, ids=names(CORE + NODES))
def test_nothing_is_executed_fetched_or_unpickled(path):
    tree = parse(path)
    assert not imported(tree) & REFUSED
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__", "print"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)


@pytest.mark.parametrize("path", CORE + NODES, ids=names(CORE + NODES))
def test_heavy_packages_are_imported_where_they_are_used(path):
    if path in CORE and path.relative_to(PACK / "faceprotect_core").as_posix() in SCRIPTS:
        return
    assert not imported(parse(path), top_level_only=True) & HEAVY


def test_the_boundaries_are_really_checked():
    assert imported(ast.parse("def f():\n    import comfy.utils")) == {"comfy"}
    assert imported(ast.parse("from server import PromptServer")) == {"server"}
    assert imported(ast.parse("from ..faceprotect_core import x")) == set()
    assert len(CORE) > 15 and len(NODES) > 8
