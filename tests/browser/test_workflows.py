"""The workflows that the pack ships, in the real frontend: they load, they are what their API twins are, they run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from comfyui import PACK
from demo import made_up, portrait, whole_photo
from frontend import Frontend
from workflow_graphs import WORKFLOWS
from workflow_models import MODELS

FOLDER = PACK / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
# The frontend asks for a help page in the user's language first; the pack's pages are in English only.
NO_TRANSLATION = re.compile(r"404 .*/docs/FaceProtect\w+/en\.md")
EXPORT = "Run `python tests/browser/export_workflows.py`, and look at what changed."

UNKNOWN_NODES = "() => app.graph.nodes.map(one => one.type).filter(type => !(type in LiteGraph.registered_node_types))"
SELECT = """id => {
    const node = app.graph.getNodeById(id)
    app.canvas.selectNodes([node])
    app.canvas.centerOnNode(node)
}"""
SET_WIDGET = """([type, name, value]) => {
    const node = app.graph.nodes.find(one => one.type === type)
    node.widgets.find(one => one.name === name).value = value
}"""
TEXT_ON_NODE = """type => {
    const node = app.graph.nodes.find(one => one.type === type)
    return node.widgets.find(one => one.name === "$$node-text-preview")?.value ?? ""
}"""
# With the node's own name: a workflow may call it otherwise.
NODES = "() => app.graph.nodes.map(node => [node.id, node.type, LiteGraph.registered_node_types[node.type].title])"
NODE_ID = "([type, title]) => app.graph.nodes.find(one => one.type === type && one.title === title).id"
SLIDER = ["ImageCompare", "Before and after"]
# What of a help page, from its heading on, is wider than the panel.
CUT = """heading => [...heading.parentElement.querySelectorAll("*")]
    .filter(one => one.clientWidth > 0 && one.scrollWidth > one.clientWidth + 1)
    .map(one => one.textContent.slice(0, 80))"""
# Title bars included; on the classic canvas there are no elements.
RECTANGLES = """() => app.graph.nodes.map(node => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`)
    const bar = LiteGraph.NODE_TITLE_HEIGHT
    const [width, height] = element ? [element.offsetWidth, element.offsetHeight] : [node.size[0], node.size[1] + bar]
    const [left, top] = [node.pos[0], node.pos[1] - bar]
    return {title: node.title, box: [left, top, left + width, top + height]}
})"""


@pytest.fixture(scope="module", autouse=True)
def files_that_the_workflows_name(comfyui):
    checkpoints = [comfyui.models_dir / model["directory"] / model["name"] for model in MODELS]
    for checkpoint in checkpoints:
        checkpoint.touch()
    comfyui.upload_image(portrait(), "faceprotect_portrait.png")
    comfyui.upload_image(made_up(), "faceprotect_makeup.png")
    comfyui.upload_image(np.full((512, 512, 3), 128, np.uint8), "faceprotect_target.png")
    comfyui.upload_image(whole_photo(), "faceprotect_photo.png")
    comfyui.upload_image(whole_photo(), "faceprotect_photo.png", subfolder="faceprotect_photos")
    yield
    for checkpoint in checkpoints:
        checkpoint.unlink()


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes2"])
def page(comfyui, browser, files_that_the_workflows_name, request):
    """One page for all tests of this file: opening one takes longer than most of them."""
    page = Frontend(comfyui, browser, nodes_2=request.param)
    page.name = "nodes2" if request.param else "classic"
    yield page
    page.close()


@pytest.fixture(autouse=True)
def no_console_error(page):
    page.errors.clear()
    yield
    assert [error for error in page.errors if not NO_TRANSLATION.search(error)] == []


@pytest.fixture
def loaded(page, name):
    graph = read(FOLDER / f"{name}.json")
    graph["extra"].pop("linearMode", None)  # an app would open as a form
    page.load(graph)
    return page


def test_the_workflows_are_those_of_the_readme():
    table = re.findall(r"^\| `(\w+)\.json` \|", (PACK / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert NAMES == sorted(table)


@pytest.mark.parametrize("name", NAMES)
def test_loads_with_all_its_nodes(loaded, name):
    assert loaded.page.evaluate(UNKNOWN_NODES) == []
    assert loaded.page.locator("[role=dialog]").count() == 0
    loaded.screenshot(f"{name}_{loaded.name}")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps(loaded, name):
    loaded.page.wait_for_timeout(500)  # Nodes 2.0 sizes its elements
    nodes = loaded.page.evaluate(RECTANGLES)
    pairs = [(one["title"], two["title"]) for one in nodes for two in nodes if one is not two and _overlap(one, two)]
    assert pairs == []


@pytest.mark.parametrize("name", NAMES)
def test_the_api_twin_is_the_frontends_own_export(loaded, name):
    assert exported(loaded, "output") == read(FOLDER / "api" / f"{name}.json"), EXPORT


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_what_is_described(name):
    """The note and every value that workflow_graphs.py names; the links follow from the twin."""
    shipped, twin = read(FOLDER / f"{name}.json"), read(FOLDER / "api" / f"{name}.json")
    notes = [node["widgets_values"][0] for node in shipped["nodes"] if node["type"] == "MarkdownNote"]
    described = WORKFLOWS[name]().nodes
    assert notes == [node.widgets["text"] for node in described if node.class_type == "MarkdownNote"], EXPORT
    for node in described:
        if str(node.id) in twin:
            assert node.widgets.items() <= twin[str(node.id)]["inputs"].items(), EXPORT


@pytest.mark.parametrize("name", NAMES)
def test_saving_again_keeps_every_value_and_link(loaded, name):
    saved, file = exported(loaded, "workflow"), read(FOLDER / f"{name}.json")
    assert saved["links"] == file["links"]
    assert _kept(saved) == _kept(file)


def test_demo_runs_from_the_page(page):
    page.load(FOLDER / "demo.json")
    few = 1 if page.name == "classic" else 2  # another number, or the second page would only see the cache
    loops = {"FaceProtectNullTextLearner": 1, "FaceProtectLatentOptimizer": few, "FaceProtectLightAndShade": few}
    for node, value in loops.items():
        page.page.evaluate(SET_WIDGET, [node, "iterations", value])
    after = page.page.evaluate(NODE_ID, ["PreviewImage", "After"])
    numbers = page.page.evaluate(NODE_ID, ["PreviewAny", "Numbers of the run"])
    run = page.queue()
    assert run["status"]["status_str"] == "success", run["status"]
    assert page.wait_for_image(after) == (256, 256)
    history = json.loads(run["outputs"][str(numbers)]["text"][0])
    assert len(history["identity"]) == few
    assert list(history["surrogates"]) == ["1. mobilefacenet", "2. faceres", "3. mobileface"]
    for kind in ("FaceProtectLatentOptimizer", "FaceProtectLightAndShade"):
        page.page.wait_for_function(f"type => ({TEXT_ON_NODE})(type).includes('mobileface')", arg=kind, timeout=60_000)
    page.page.wait_for_timeout(500)
    page.screenshot(f"demo_ran_{page.name}")


def test_protect_photo_runs_from_the_page_and_says_whether_it_worked(page):
    page.load(FOLDER / "protect_photo.json")
    # Another value for each page, or the second would only see the cache.
    goal = "dodge" if page.name == "classic" else "synthetic"
    for name, value in (("preset", "fast"), ("goal", goal)):
        page.page.evaluate(SET_WIDGET, ["FaceProtectProtectPhoto", name, value])
    ids = [page.page.evaluate(NODE_ID, one) for one in (["FaceProtectSaveImage", "Save Protected Image"], SLIDER)]
    run = page.queue()
    assert run["status"]["status_str"] == "success", run["status"]
    for node in ids if page.name == "nodes2" else ids[:1]:  # the slider is drawn with Nodes 2.0 only
        assert page.wait_for_image(node, timeout=240) == (512, 512)
    texts = [text for output in run["outputs"].values() for text in output.get("text", [])]
    assert texts and all("Photo 1: Protected" in text and "dlib_resnet, which was not used" in text for text in texts)
    assert any(image["filename"].startswith("FaceProtect_") for image in _images(run))
    page.page.wait_for_timeout(1000)
    page.screenshot(f"protect_photo_ran_{page.name}")


def test_a_bypassed_protect_photo_saves_nothing(page):
    page.load(FOLDER / "protect_photo.json")
    before = set((page.server.base_dir / "output").iterdir())
    page.page.evaluate("() => { app.graph.nodes.find(n => n.type === 'FaceProtectProtectPhoto').mode = 4 }")  # Ctrl+B
    run = page.queue()
    assert run["status"]["status_str"] == "error"
    assert "no block that protects lies before it" in json.dumps(run["status"])
    assert set((page.server.base_dir / "output").iterdir()) == before
    page.errors.clear()  # the run's own


def test_verify_runs_from_the_page_and_marks_the_recognisers_that_were_used(page):
    page.load(FOLDER / "verify.json")
    goal = "dodge" if page.name == "classic" else "synthetic"
    for name, value in (("preset", "fast"), ("goal", goal)):
        page.page.evaluate(SET_WIDGET, ["FaceProtectProtectPhoto", name, value])
    report = page.page.evaluate(NODE_ID, ["PreviewImage", "Report"])
    run = page.queue()
    assert run["status"]["status_str"] == "success", run["status"]
    assert page.wait_for_image(report)[0] == 1200
    for kind in ("FaceProtectVerify", "FaceProtectVerifyRobustness"):
        assert "1 of 1 recogniser that was not used to make this" in page.page.evaluate(TEXT_ON_NODE, kind)
    page.page.wait_for_timeout(1000)
    page.screenshot(f"verify_ran_{page.name}")


def _images(run: dict) -> list[dict]:
    return [image for output in run["outputs"].values() for image in output.get("images", [])]


def test_the_info_panel_shows_the_help_page_of_every_node_and_cuts_nothing(page):
    shown = {}
    # These hold every node of the pack but Performance Settings, which is put beside the last.
    for name in ("whole_photo", "protect_photo", "verify", "light_and_shade", "makeup", "noise_baseline"):
        page.load(FOLDER / f"{name}.json")
        if name == "noise_baseline":
            page.page.evaluate("() => { app.graph.add(LiteGraph.createNode('FaceProtectPerformance')) }")
        for node_id, kind, title in page.page.evaluate(NODES):
            if kind.startswith("FaceProtect") and kind not in shown:
                shown[kind] = _show_help(page, node_id, title)
                page.screenshot(f"help_{kind}_{page.name}")
    page.page.evaluate("() => app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', false)")
    assert sorted(shown) == sorted(page.stem for page in (PACK / "js/docs").glob("*.md"))
    assert {kind: cut for kind, cut in shown.items() if cut} == {}


def _show_help(page: Frontend, node_id: int, title: str) -> list[str]:
    """What of it is cut."""
    info = page.page.get_by_role("tab", name="Info")
    page.page.evaluate(SELECT, node_id)
    if not info.is_visible():
        page.page.get_by_test_id("info-button").click()
    info.click()
    heading = page.page.get_by_role("heading", level=1, name=title, exact=True)
    heading.wait_for()
    page.page.get_by_role("heading", level=2, name="Limits").wait_for()
    return heading.evaluate(CUT)


def exported(page: Frontend, what: str) -> dict:
    """The frontend's export, "output" (API format) or "workflow", exactly as its JSON file would hold it."""
    return json.loads(page.page.evaluate("async what => JSON.stringify((await app.graphToPrompt())[what])", what))


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _kept(workflow: dict) -> list:
    fields = ("id", "type", "title", "properties", "inputs", "outputs", "widgets_values")
    return [{field: node.get(field) for field in fields} for node in workflow["nodes"]]


def _overlap(one: dict, two: dict) -> bool:
    (left, top, right, bottom), (left2, top2, right2, bottom2) = one["box"], two["box"]
    return left < right2 and left2 < right and top < bottom2 and top2 < bottom
