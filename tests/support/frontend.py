"""The real frontend in Chromium: what a user does on the canvas, as calls, and what went wrong on the way."""

import json
import os
import shutil
import time
from pathlib import Path

from playwright.sync_api import Browser, Page

from comfyui import ComfyUIServer

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
VIEWPORT = {"width": 1600, "height": 1000}
EMPTY_GRAPH = json.dumps({"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4})
# Console errors that ComfyUI's frontends make by themselves. 1.47: the first two. 1.58: its own first graph names
# a model that is not here; with Manager it asks the registry.
NOT_OURS = (
    *("ComfyApp graph accessed before initialization", "/user.css)"),
    *("https://huggingface.co/Comfy-Org/z_image_turbo/", "https://api.comfy.org/"),
)
NODES_2 = "Comfy.VueNodes.Enabled"
READY = "() => window.app?.vueAppReady && window.app.extensionManager?.workflow?.activeWorkflow != null"


def find_chromium() -> str | None:
    """The Chromium that CHROMIUM names, else the system's."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


class Frontend:
    """One page with an empty canvas; `.errors` are the console errors and uncaught exceptions since it was opened.

    A workflow that names a missing model makes the frontend ask the model's server for its size, which ComfyUI's
    content policy forbids, and that is a console error: put an (empty) file of that name into server.models_dir.
    """

    def __init__(self, server: ComfyUIServer, browser: Browser, nodes_2: bool = False):
        self.server = server
        self.errors: list[str] = []
        server.post("/settings", json={NODES_2: nodes_2, "Comfy.TutorialCompleted": True})
        self.context = browser.new_context(viewport=VIEWPORT)
        self.context.add_init_script(f"localStorage.setItem('workflow', {json.dumps(EMPTY_GRAPH)})")
        self.page = self._listened(self.context.new_page())
        self.page.set_default_timeout(120_000)
        self.page.goto(server.url)
        self.page.wait_for_function(READY)
        assert self.setting(NODES_2) == nodes_2

    def _listened(self, page: Page) -> Page:
        page.on("console", self._take_console_message)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        return page

    def _take_console_message(self, message):
        text = f"{message.text} ({message.location.get('url', '')})"
        if message.type == "error" and not any(part in text for part in NOT_OURS):
            self.errors.append(text)

    def close(self):
        self.context.close()

    def setting(self, name: str):
        return self.page.evaluate("name => app.extensionManager.setting.get(name)", name)

    def load(self, workflow: dict | Path):
        """Loads a workflow in UI format, and waits until it is drawn."""
        graph = workflow if isinstance(workflow, dict) else json.loads(Path(workflow).read_text())
        self.page.evaluate("graph => app.loadGraphData(graph)", graph)
        self.page.wait_for_function("count => app.graph.nodes.length === count", arg=len(graph["nodes"]))
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def to_prompt(self) -> dict:
        """The canvas in API format, as the frontend exports it."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def to_workflow(self) -> dict:
        """The canvas in UI format, as the frontend saves it."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).workflow")

    def queue(self, timeout: float = 600) -> dict:
        """Presses Run, waits until the run is over, and returns its entry in ComfyUI's history."""
        before = set(self.server.get("/history").json())
        self.page.evaluate("() => app.queuePrompt(0)")
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            history = self.server.get("/history").json()
            new = [history[prompt_id] for prompt_id in history if prompt_id not in before]
            if new:
                return new[0]
            self.page.wait_for_timeout(200)
        raise TimeoutError(f"The run queued from the page did not end within {timeout} s; errors: {self.errors}")

    def wait_for_image(self, node_id: int | str, timeout: float = 60) -> tuple[int, int]:
        """Waits until the node shows a picture and returns its width and height."""
        size = self.page.wait_for_function(SHOWN_IMAGE, arg=str(node_id), timeout=timeout * 1000)
        return tuple(size.json_value())

    def screenshot(self, name: str) -> Path:
        """A picture of the page under .screenshots/, for a human to look at."""
        path = Path(__file__).resolve().parents[2] / ".screenshots" / f"{name}.png"
        self.page.screenshot(path=path)
        return path


# Nodes 2.0 puts <img> elements into the page, the classic canvas draws node.imgs.
SHOWN_IMAGE = """id => {
    const drawn = app.graph.getNodeById(id)?.imgs ?? [];
    const elements = document.querySelectorAll(`[data-node-id="${id}"] img[src*="/view?"]`);
    const image = [...drawn, ...elements].find(one => one.complete && one.naturalWidth > 0);
    return image ? [image.naturalWidth, image.naturalHeight] : null;
}"""
