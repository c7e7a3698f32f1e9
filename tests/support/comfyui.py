"""A real ComfyUI in a process of its own: for the host and browser tests, `make demo` and `make serve`.

    with ComfyUIServer() as server:
        server.upload_image(pixels, "portrait.png")
        result = server.run(api_prompt, on_event=print).check()
        pixels = server.image(result.images()[0])

Nothing here needs pytest. Errors end with the last lines of ComfyUI's log.
"""

import ctypes
import io
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from comfyui_run import EventStream, Result

PACK = Path(__file__).resolve().parents[2]
PACK_NAME = "faceprotect"  # the folder in custom_nodes, as the registry names it
FOLDERS = (
    *("models/checkpoints", "models/loras", "models/face_recognition", "custom_nodes"),
    *("user/default/workflows", "user/default/subgraphs", "output"),
)
FLAGS = (
    "--disable-api-nodes --database-url sqlite:///:memory: --disable-auto-launch --dont-print-server "
    "--cache-classic"  # the default cache drops results when memory is short: a test would see a run it did not expect
).split()


class ComfyUIError(RuntimeError):
    """ComfyUI could not be found, started or used."""


class ComfyUINotFound(ComfyUIError):
    """There is no ComfyUI on this machine."""


class PromptRejected(ComfyUIError):
    """ComfyUI refused a workflow before running it; `.error` and `.node_errors` are its own words."""

    def __init__(self, answer: dict):
        self.error = answer.get("error", answer)
        self.node_errors = answer.get("node_errors", {})
        super().__init__(f"ComfyUI refused the workflow: {json.dumps(answer, indent=1)}")


@dataclass(frozen=True)
class Installation:
    folder: Path
    python: str


def find_comfyui() -> Installation:
    """A ComfyUI above the pack, else the one COMFYUI_PATH names, else .comfyui; with the Python that runs it."""
    above = PACK.parent.parent if PACK.parent.name == "custom_nodes" else None
    named = os.environ.get("COMFYUI_PATH")
    for folder in (above, named and Path(named).expanduser()):
        if folder and _is_comfyui(folder):
            return Installation(folder.resolve(), _python_of(folder))
    if named:
        raise ComfyUINotFound(
            f"COMFYUI_PATH is {named!r}, and there is no ComfyUI: main.py and comfy/ are not in it. "
            "How to fix: name the folder that holds ComfyUI's main.py, or unset COMFYUI_PATH and run .ci/environment."
        )
    if _is_comfyui(PACK / ".comfyui"):
        return Installation(PACK / ".comfyui", _python_of(PACK))
    raise ComfyUINotFound(
        f"No ComfyUI found: none above the pack, none in {PACK / '.comfyui'}, and COMFYUI_PATH is not set. "
        "How to fix: run .ci/environment (about 3 minutes, 6 GB), or set COMFYUI_PATH."
    )


def _is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def _python_of(folder: Path) -> str:
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        return named
    places = (".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe")
    found = [folder / place for place in (*places, "../python_embeded/python.exe") if (folder / place).is_file()]
    return str(found[0]) if found else shutil.which("python3") or sys.executable


class ComfyUIServer:
    """ComfyUI on a free port, with a base directory of its own that is gone afterwards.

    packs: {folder name in custom_nodes: the pack's folder}; each is linked in, and no other pack is loaded.
    flags: further options for main.py. device: "cpu", or "auto" for what ComfyUI chooses.
    manager: the folder of an unpacked ComfyUI Manager, which is then loaded, and told to stay offline.
    """

    def __init__(
        self,
        packs: dict[str, Path] | None = None,
        flags=(),
        device="cpu",
        installation=None,
        timeout=300,
        manager: Path | None = None,
    ):
        self.installation = installation or find_comfyui()
        self.packs = {PACK_NAME: PACK} if packs is None else packs
        self.manager = manager and Path(manager).resolve()
        self.flags = [
            *FLAGS,
            *flags,
            *(["--cpu"] if device == "cpu" else []),
            *(["--enable-manager"] if manager else []),
        ]
        self.timeout = timeout
        self.process = None

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *exception):
        self.stop()

    def start(self) -> "ComfyUIServer":
        self.base_dir = Path(tempfile.mkdtemp(prefix="faceprotect-comfyui-"))
        self.models_dir = self.base_dir / "models"
        self.log_path = self.base_dir / "comfyui.log"
        self._fill_base_dir()
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                self._command(),
                cwd=self.installation.folder,
                env=_environment(self.manager),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent(),
            )
        self._wait_until_ready()
        return self

    def _fill_base_dir(self):
        for folder in FOLDERS:
            (self.base_dir / folder).mkdir(parents=True)
        user = self.base_dir / "user/default"  # what the frontend asks for at its start, and else reports as errors
        (user / "comfy.templates.json").write_text("[]")
        (user / "user.css").touch()
        for name, folder in self.packs.items():
            (self.base_dir / "custom_nodes" / name).symlink_to(Path(folder).resolve(), target_is_directory=True)
        if self.manager:
            (self.base_dir / "user/__manager").mkdir()
            (self.base_dir / "user/__manager/config.ini").write_text("[default]\nnetwork_mode = offline\n")

    def _command(self) -> list[str]:
        custom_nodes = ["--disable-all-custom-nodes"]
        if self.packs:
            custom_nodes += ["--whitelist-custom-nodes", *self.packs]
        main = [self.installation.python, "main.py", "--base-directory", str(self.base_dir), "--port", str(self.port)]
        return [*main, *custom_nodes, *self.flags]

    def _wait_until_ready(self):
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline:
            self._check_alive()
            try:
                self.get("/v2/manager/version" if self.manager else "/system_stats", timeout=5)
                return
            except (requests.ConnectionError, requests.Timeout):
                time.sleep(0.1)
        raise ComfyUIError(f"ComfyUI did not answer on {self.url} within {self.timeout} s. {self._log_tail()}")

    def stop(self):
        """Ends the server (its whole process group) and removes its base directory."""
        if self.process is not None:
            for how in (signal.SIGTERM, signal.SIGKILL):
                if self.process.poll() is None:
                    os.killpg(self.process.pid, how)
                    _wait(self.process, seconds=10)
            self.process = None
        if hasattr(self, "base_dir"):
            shutil.rmtree(self.base_dir, ignore_errors=True)

    # What a client can ask for

    def object_info(self, node_id: str | None = None) -> dict:
        """Every node's schema, or one node's."""
        answer = self.get(f"/object_info/{node_id}" if node_id else "/object_info").json()
        if node_id and node_id not in answer:
            raise ComfyUIError(f"ComfyUI has no node {node_id!r}. {self._log_tail()}")
        return answer[node_id] if node_id else answer

    def upload_image(self, image, name: str, subfolder: str = "") -> str:
        """Puts a uint8 or [0, 1] float array [H, W, C], or a file, into ComfyUI's input folder as LoadImage sees it."""
        data = _png(image) if isinstance(image, np.ndarray) else Path(image).read_bytes()
        files = {"image": (name, data, "image/png")}
        return self.post("/upload/image", files=files, data={"overwrite": "true", "subfolder": subfolder}).json()[
            "name"
        ]

    def queue(self, prompt: dict, client_id: str = "") -> str:
        """Queues a workflow in API format and returns its id; raises PromptRejected when ComfyUI refuses it."""
        body = {"prompt": prompt, "client_id": client_id}
        response = requests.post(self.url + "/prompt", json=body, timeout=60)
        if response.status_code == 400:
            raise PromptRejected(response.json())
        response.raise_for_status()
        return response.json()["prompt_id"]

    def run(self, prompt: dict, timeout: float = 600, on_event=None) -> Result:
        """Runs a workflow to its end, good or bad; on_event(event) sees each websocket event as it arrives."""
        client_id = uuid.uuid4().hex
        with EventStream(f"{self.url}/ws?clientId={client_id}") as events:
            result = Result(self.queue(prompt, client_id))
            deadline = time.monotonic() + timeout
            while not result.finished:
                event = self._next_event(events, deadline, timeout)
                if event is not None and result.record(event) and on_event is not None:
                    on_event(event)
        history = self.get(f"/history/{result.prompt_id}").json()[result.prompt_id]
        result.outputs = history["outputs"]
        return result

    def _next_event(self, events: EventStream, deadline: float, timeout: float) -> dict | None:
        self._check_alive()
        if time.monotonic() > deadline:
            self.interrupt()
            raise ComfyUIError(f"The workflow did not end within {timeout} s. {self._log_tail()}")
        try:
            return events.next(seconds=0.5)
        except queue.Empty:
            return None

    def interrupt(self):
        """What the Cancel button does."""
        self.post("/interrupt", json={})

    def free(self):
        """What "Unload models and clear the cache" does; takes effect once the queue is empty."""
        self.post("/free", json={"unload_models": True, "free_memory": True})

    def view(self, entry: dict) -> bytes:
        """The file behind an entry of an output ({"filename", "subfolder", "type"})."""
        return self.get("/view", params=entry).content

    def image(self, entry: dict) -> np.ndarray:
        """The picture behind an entry of an output, uint8 [H, W, C]."""
        return np.asarray(Image.open(io.BytesIO(self.view(entry))))

    def get(self, path: str, timeout: float = 60, **options) -> requests.Response:
        return self._checked(requests.get(self.url + path, timeout=timeout, **options))

    def post(self, path: str, timeout: float = 60, **options) -> requests.Response:
        return self._checked(requests.post(self.url + path, timeout=timeout, **options))

    def _checked(self, response: requests.Response) -> requests.Response:
        if not response.ok:
            raise ComfyUIError(f"{response.url} answered {response.status_code}: {response.text[:500]}")
        return response

    # The log

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def _log_tail(self, lines: int = 30) -> str:
        tail = "\n".join(self.log().splitlines()[-lines:])
        return f"The last lines of ComfyUI's log:\n{tail}"

    def _check_alive(self):
        code = self.process.poll()
        if code is not None:
            raise ComfyUIError(f"ComfyUI ended with exit code {code}. {self._log_tail()}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _end_with_parent():
    """For the child: on Linux it ends when this process does, even when that is killed."""
    if sys.platform != "linux":
        return None
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(set_parent_death_signal, signal.SIGTERM)


def _environment(manager: Path | None) -> dict:
    """This process's environment, with model hubs and installers told to stay offline: nothing is fetched at run time.
    manager: before any that is installed."""
    unwanted = ("PYTHONPATH", "COMFYUI_PATH", "COMFYUI_PYTHON")
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    offline = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}
    return {**kept, **offline, "PYTHONUNBUFFERED": "1", **({"PYTHONPATH": str(manager)} if manager else {})}


def _png(image: np.ndarray) -> bytes:
    pixels = image if image.dtype == np.uint8 else (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _wait(process: subprocess.Popen, seconds: float):
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        pass
