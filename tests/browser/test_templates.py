"""ComfyUI's template browser: users find the pack's workflows there, each with a picture."""

import io

import pytest
from PIL import Image

from comfyui import PACK, PACK_NAME

FOLDER = PACK / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
LARGEST_THUMBNAIL = 60_000  # bytes
SHOWS_PICTURE = """name => [...document.querySelectorAll("[role=dialog] img")].some(
    one => one.alt === name && one.complete && one.naturalWidth > 0
)"""


def test_comfyui_lists_every_workflow(comfyui):
    assert sorted(comfyui.get("/api/workflow_templates").json()[PACK_NAME]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_comfyui_serves_the_workflow_and_its_picture(comfyui, name):
    address = f"/api/workflow_templates/{PACK_NAME}/{name}"
    assert comfyui.get(f"{address}.json").content == (FOLDER / f"{name}.json").read_bytes()
    picture = comfyui.get(f"{address}.jpg").content
    assert Image.open(io.BytesIO(picture)).format == "JPEG"
    assert len(picture) <= LARGEST_THUMBNAIL


@pytest.mark.parametrize("frontend", [False], ids=["classic"], indirect=True)
def test_template_browser_shows_them(frontend):
    frontend.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = frontend.page.get_by_role("dialog")
    dialog.get_by_text(PACK_NAME, exact=True).click()
    for name in NAMES:
        dialog.get_by_role("heading", name=name, exact=True).scroll_into_view_if_needed()  # only there has it a picture
        frontend.page.wait_for_function(SHOWS_PICTURE, arg=name)
    frontend.screenshot("templates")
