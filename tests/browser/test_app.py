"""The app, as somebody uses it who has never seen a graph: open it, choose a photo, Run, read the verdict."""

import json

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from comfyui import PACK, PACK_NAME
from demo import whole_photo
from frontend import Frontend

APP = "protect_photo_app"
# The form asks for the photo's thumbnail while it is still being uploaded.
NO_THUMBNAIL_YET = "404 (Not Found) (http"
REPORT_WIDTH = 1200
SHOWN = """() => {
    const picture = document.querySelector("[data-testid=linear-center-panel] img[src*='filename=']")
    return picture?.complete && picture.naturalWidth
}"""
PREVIEW = "() => document.querySelector(\"[data-testid=linear-center-panel] img[src^='blob:']\")?.naturalWidth"
BAR = "() => parseFloat(document.querySelector('[data-testid=linear-progress-node]')?.style.width) || 0"


@pytest.fixture
def app(comfyui, browser):
    """The app, opened from ComfyUI's templates, with ComfyUI's settings as they are at first."""
    page = Frontend(comfyui, browser)
    # Newer frontends offer a tour on top of the first app; a user who has a photo skips it.
    page.page.add_locator_handler(page.page.get_by_test_id("coach-landing"), lambda tour: tour.press("Escape"))
    page.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = page.page.get_by_role("dialog")
    dialog.get_by_text(PACK_NAME, exact=True).click()
    dialog.get_by_role("heading", name=APP, exact=True).click()
    page.page.get_by_test_id("linear-run-button").wait_for()
    yield page
    page.close()


def choose(app: Frontend, photo: np.ndarray, folder) -> None:
    path = folder / f"{photo.mean():.4f}.png"  # another name for another photo
    Image.fromarray(photo).save(path)
    with app.page.expect_file_chooser() as chooser:
        app.page.locator("[data-slot=drop-zone-indicator]").click()
    chooser.value.set_files(path)
    app.page.get_by_test_id("linear-widgets").get_by_text(path.name).wait_for()


def run(app: Frontend) -> None:
    app.page.get_by_test_id("linear-run-button").get_by_role("button", name="Run").click()


def test_a_photo_is_protected_and_the_verdict_shown(app, comfyui, tmp_path):
    form = app.page.get_by_test_id("linear-widgets")
    for label in ("Your photo", "How strong", "Which faces"):
        expect(form.get_by_text(label, exact=True)).to_be_visible()
    choose(app, whole_photo(), tmp_path)
    form.get_by_text("balanced").click()
    app.page.get_by_role("option", name="fast").click()
    app.screenshot("app_chosen")

    run(app)
    app.page.wait_for_function(f"() => ({BAR})() > 20")  # what is done, of the node that takes long
    app.page.wait_for_function(PREVIEW)  # and what it looks like, with what is left
    app.screenshot("app_runs")
    app.page.wait_for_function(f"() => ({SHOWN})() === {REPORT_WIDTH}", timeout=400_000)
    app.page.get_by_text("Rerun").wait_for()
    app.screenshot("app_ran")

    *_, finished = comfyui.get("/history").json().values()
    assert finished["status"]["status_str"] == "success"
    verdicts = [text for output in finished["outputs"].values() for text in output.get("text", [])]
    assert any(text.startswith("Photo 1: Protected") for text in verdicts)
    assert app.page.get_by_test_id("linear-history-item").count() == 3  # the picture, the saved file, the report
    saved = [one["filename"] for output in finished["outputs"].values() for one in output.get("images", [])]
    assert any((comfyui.base_dir / "output" / name).is_file() for name in saved)
    assert [error for error in app.errors if NO_THUMBNAIL_YET not in error] == []


def test_a_photo_without_a_face_gives_no_file_and_says_why(app, comfyui, tmp_path):
    before = set((comfyui.base_dir / "output").iterdir())
    choose(app, np.full((300, 400, 3), 120, np.uint8), tmp_path)
    run(app)
    report = app.page.get_by_test_id("linear-center-panel").get_by_role("article").first
    expect(report).to_contain_text("NOT PROTECTED, left out.", timeout=120_000)
    expect(report).to_contain_text("How to fix")
    app.screenshot("app_no_face")
    assert set((comfyui.base_dir / "output").iterdir()) == before


def test_what_the_form_shows_is_in_the_graph():
    graph = json.loads((PACK / "workflows" / f"{APP}.json").read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert graph["extra"]["linearMode"] is True
    shown = graph["extra"]["linearData"]
    kinds = ["FaceProtectProtectPhoto", "FaceProtectSaveImage", "PreviewImage"]
    assert [nodes[node]["type"] for node in shown["outputs"]] == kinds
    for node, widget in shown["inputs"]:
        assert widget in [one["widget"]["name"] for one in nodes[node]["inputs"] if "widget" in one]
