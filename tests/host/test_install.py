"""Installed as users install it: by ComfyUI Manager, and from the archive that the registry's own tool packs.

The pack is taken as git would commit it now (tracked and new files, nothing ignored), so that these tests need
neither a commit nor history: they run in a shallow clone too. Nothing leaves this machine.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from comfyui import PACK, PACK_NAME, ComfyUIServer
from needs import missing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

PACKED = {
    *("__init__.py", "nodes", "faceprotect_core", "js", "workflows", "pyproject.toml", "requirements.txt"),
    *("README.md", "LICENSE", "NOTICE", "CHANGELOG.md"),
}
REGISTRY_TOOL = PACK / ".venv-registry/bin/comfy"
USERS_FOLDERS = {".git", ".venv", "venv", "user", "input", "output", "temp", "custom_nodes", "models"}
QUICK_TEST = "main.py --quick-test-for-ci --cpu --disable-api-nodes --database-url sqlite:///:memory:".split()
IMPORT_SECONDS = 0.3


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A git repository with one commit: the pack as it lies here."""
    if not shutil.which("git") or not (PACK / ".git").exists():
        missing("The pack is no git clone, or git is missing. How to fix: `apt-get install git`, and clone the pack.")
    folder = tmp_path_factory.mktemp("repository") / PACK_NAME
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=PACK)
    for name in filter(None, listed.split("\0")):
        if (PACK / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PACK / name, folder / name)
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", "commit", "--quiet", "--message", "the pack", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def archive(repository) -> Path:
    """What `comfy node pack` makes of the pack."""
    run(registry_tool(), "--skip-prompt", "--no-enable-telemetry", "node", "pack", cwd=repository)
    return repository / "node.zip"


def test_manager_installs_the_pack_into_a_clean_comfyui(repository, comfyui_installation, tmp_path):
    manager = Path(comfyui_installation.python).with_name("cm-cli")
    if not manager.exists():
        missing(f"{manager} is missing. How to fix: `.ci/environment test`, or pip install comfyui_manager==4.2.2.")
    clean = clean_copy(comfyui_installation.folder, tmp_path / "ComfyUI")
    bare = tmp_path / "served" / f"{PACK_NAME}.git"
    run("git", "clone", "--quiet", "--bare", str(repository), str(bare))
    run("git", "update-server-info", cwd=bare)

    with served(bare.parent) as url:
        arguments = ("install", f"{url}/{bare.name}", "--mode", "local", "--exit-on-fail")
        run(str(manager), *arguments, cwd=tmp_path, COMFYUI_PATH=str(clean), HOME=str(tmp_path))

    assert sorted(os.listdir(clean / "custom_nodes")) == [PACK_NAME]
    log = run(comfyui_installation.python, *QUICK_TEST, cwd=clean)
    assert re.search(rf"seconds: .*/custom_nodes/{PACK_NAME}$", log, re.MULTILINE), log
    assert complaints(log) == []


def test_registry_finds_nothing_to_complain_about(repository):
    said = run(registry_tool(), "--skip-prompt", "--no-enable-telemetry", "node", "validate", cwd=repository)
    assert "All validation checks passed" in said
    assert "warning" not in said.lower()


def test_archive_holds_what_the_pack_needs_and_nothing_else(repository, archive):
    tracked = run("git", "ls-files", "-z", cwd=repository).split("\0")
    with zipfile.ZipFile(archive) as packed:
        names = set(packed.namelist())
    assert {name.split("/")[0] for name in names} == PACKED
    assert names == {name for name in tracked if name.split("/")[0] in PACKED}


def test_pack_from_the_archive_loads(archive, comfyui, comfyui_installation, tmp_path):
    unpacked = tmp_path / PACK_NAME
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(unpacked)
    with ComfyUIServer(packs={PACK_NAME: unpacked}, installation=comfyui_installation) as server:
        assert our_nodes(server) == our_nodes(comfyui) != set()
        assert complaints(server.log()) == []


def test_pack_adds_little_to_comfyuis_start(comfyui_installation, tmp_path):
    """CPU time, the best of three: a busy machine stretches the seconds in ComfyUI's own table several times over."""
    environment = {"PYTHONPATH": str(comfyui_installation.folder)}
    arguments = ("-c", MEASURE_IMPORT, str(PACK), "--cpu", "--base-directory", str(tmp_path))
    seconds = []
    while len(seconds) < 3 and min(seconds, default=IMPORT_SECONDS) >= IMPORT_SECONDS:
        said = run(comfyui_installation.python, *arguments, cwd=comfyui_installation.folder, **environment)
        seconds.append(float(re.search(r"import took ([\d.]+) s", said)[1]))
    assert min(seconds) < IMPORT_SECONDS


def test_both_lists_of_requirements_agree():
    project = tomllib.loads((PACK / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == (PACK / "requirements.txt").read_text().split()


# ComfyUI's own nodes come first, as in a real start, so that only what the pack adds is measured.
MEASURE_IMPORT = """
import asyncio, sys, time
pack = sys.argv.pop(1)
import comfy.options
comfy.options.enable_args_parsing()
import execution, server, nodes
async def measure():
    await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)
    start = time.process_time()
    assert await nodes.load_custom_node(pack)
    print(f"import took {time.process_time() - start:.3f} s")
asyncio.run(measure())
"""


def run(*command: str, cwd: Path | None = None, **environment: str) -> str:
    """Runs a command with every installer offline; returns what it said, and raises with that when it fails."""
    offline = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    author = {f"GIT_{who}_{what}": "faceprotect" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    trust = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **offline, **author, **trust, **environment},
        timeout=600,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def registry_tool() -> str:
    if not REGISTRY_TOOL.exists():
        missing(f"{REGISTRY_TOOL} is missing. How to fix: `.ci/environment test`.")
    return str(REGISTRY_TOOL)


def clean_copy(comfyui: Path, folder: Path) -> Path:
    """ComfyUI's code without anything a user put into it."""

    def ignore(path, names):
        return {"__pycache__"} | (USERS_FOLDERS if Path(path) == comfyui else set())

    shutil.copytree(comfyui, folder, ignore=ignore)
    for empty in ("custom_nodes", "models", "input", "output"):
        (folder / empty).mkdir()
    return folder


class served:
    """Serves a folder on loopback, as a git host would serve a repository's files."""

    def __init__(self, folder: Path):
        handler = functools.partial(QuietHandler, directory=str(folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def complaints(log: str) -> list[str]:
    """The lines of ComfyUI's log that speak of a failed pack, and the warnings that name ours."""
    failed = re.compile(r"IMPORT FAILED|Error while calling comfy_entrypoint|Cannot import|Traceback")
    warned = re.compile(rf"(WARN|ERROR).*{PACK_NAME}", re.IGNORECASE)
    return [line for line in log.splitlines() if failed.search(line) or warned.search(line)]


def our_nodes(server: ComfyUIServer) -> set[str]:
    return {node_id for node_id in server.object_info() if node_id.startswith("FaceProtect")}
