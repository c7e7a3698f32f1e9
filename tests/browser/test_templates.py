"""ComfyUI's template browser: users find the pack's workflows there, each with a picture."""

import io

import pytest
from PIL import Image

from comfyui import PACK, PACK_NAME

FOLDER = PACK / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
LARGEST_THUMBNAIL = 60_000  # bytes


def test_comfyui_lists_every_workflow(comfyui):
    assert sorted(comfyui.get("/api/workflow_templates").json()[PACK_NAME]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_comfyui_serves_the_workflow_and_its_picture(comfyui, name):
    address = f"/api/workflow_templates/{PACK_NAME}/{name}"
    assert comfyui.get(f"{address}.json").content == (FOLDER / f"{name}.json").read_bytes()
    picture = comfyui.get(f"{address}.jpg").content
    assert Image.open(io.BytesIO(picture)).format == "JPEG"
    assert len(picture) <= LARGEST_THUMBNAIL


def test_template_browser_shows_them(frontend):
    page = frontend.page
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_role("dialog").get_by_text(PACK_NAME, exact=True).click()
    for name in NAMES:
        picture = page.locator(f"img[src*='{PACK_NAME}/{name}.jpg']").first
        picture.wait_for()
        assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
    frontend.screenshot(f"templates_{'nodes2' if frontend.setting('Comfy.VueNodes.Enabled') else 'classic'}")
