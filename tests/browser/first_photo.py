"""From an empty folder to a protected photo in the app, as a new user does it: every step timed, with pictures.

    python tests/browser/first_photo.py      writes docs/first_photo_*.jpg and docs/app.jpg, and prints the seconds

For developers, not a test (test_app.py is). The pack is cloned from here with git, as from its page.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

from PIL import Image
from playwright.sync_api import sync_playwright

from comfyui import PACK, PACK_NAME, ComfyUIServer, find_comfyui
from demo import whole_photo
from frontend import CHROMIUM_FLAGS, NODES_2, Frontend, find_chromium

APP = "protect_photo_app"
WIDTH, QUALITY = 1200, 80  # of the pictures: below 150 kB each
FIT = "() => app.extensionManager.command.execute('Comfy.Canvas.FitView')"


class Clock:
    """Seconds of each step."""

    def __init__(self):
        self.at = time.monotonic()

    def __call__(self, step: str) -> None:
        now = time.monotonic()
        print(f"{step}: {now - self.at:.0f} s", flush=True)
        self.at = time.monotonic()


def main():
    with tempfile.TemporaryDirectory() as empty:
        walk(Path(empty))


def walk(folder: Path):
    Image.fromarray(whole_photo()).save(folder / "me.png")
    clock, clone = Clock(), folder / PACK_NAME
    subprocess.run(["git", "clone", "--quiet", str(PACK), str(clone)], check=True)
    clock("git clone")
    requirements = ["-m", "pip", "-q", "--disable-pip-version-check", "install", "-r", clone / "requirements.txt"]
    subprocess.run([find_comfyui().python, *requirements], check=True)
    clock("pip install -r requirements.txt")
    with ComfyUIServer(packs={PACK_NAME: clone}) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        page = Frontend(server, browser)
        clock("ComfyUI starts, and its page opens")
        use_the_app(page, folder / "me.png", clock)
        look_at_the_graph(page)
        browser.close()


def use_the_app(user: Frontend, photo: Path, clock: Clock):
    page = user.page
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(PACK_NAME, exact=True).click()
    dialog.get_by_role("heading", name=APP, exact=True).scroll_into_view_if_needed()
    page.wait_for_timeout(1500)  # the pictures of the templates
    keep(user, "first_photo_templates")
    dialog.get_by_role("heading", name=APP, exact=True).click()
    page.get_by_test_id("linear-run-button").wait_for()
    clock("Templates, faceprotect, protect_photo_app")
    with page.expect_file_chooser() as chooser:
        page.locator("[data-slot=drop-zone-indicator]").click()
    chooser.value.set_files(photo)
    page.get_by_test_id("linear-widgets").get_by_text(photo.name).wait_for()
    page.wait_for_timeout(1000)
    clock("the photo is chosen")
    keep(user, "first_photo_chosen")
    page.get_by_test_id("linear-run-button").get_by_role("button", name="Run").click()
    page.wait_for_function("() => document.querySelector('[data-testid=linear-center-panel] img[src^=\"blob:\"]')")
    page.wait_for_timeout(1500)  # the preview, and what is left
    keep(user, "first_photo_runs")
    page.get_by_text("Rerun").wait_for(timeout=590_000)
    clock("Run")
    page.wait_for_timeout(1000)
    keep(user, "app")


def look_at_the_graph(user: Frontend):
    """The same workflow and its results on the canvas, in both ways of drawing it."""
    user.page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
    for nodes_2 in (False, True):
        user.page.evaluate("([name, on]) => app.extensionManager.setting.set(name, on)", [NODES_2, nodes_2])
        user.page.wait_for_timeout(3000)
        user.page.evaluate(FIT)
        user.page.wait_for_timeout(2000)
        keep(user, f"first_photo_{'nodes2' if nodes_2 else 'classic'}")


def keep(user: Frontend, name: str):
    picture = Image.open(user.screenshot(name)).convert("RGB")
    small = picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)), Image.Resampling.LANCZOS)
    small.save(PACK / "docs" / f"{name}.jpg", quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()
