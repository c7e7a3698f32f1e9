"""Makes workflows/<name>.json, workflows/api/<name>.json and workflows/<name>.jpg. For developers, not a test.

    python tests/browser/export_workflows.py                 every workflow, built in the real frontend in Chromium
    python tests/browser/export_workflows.py demo            one of them
    python tests/browser/export_workflows.py --thumbnails    the pictures, from real runs on the real server

The graphs are described in workflow_graphs.py. What is written is what the frontend's own export gives, with the
workflow's random id replaced by one made from its name, and without the position of the developer's view.
"""

# ruff: noqa: T20 - a script: what it prints is what it is for
import argparse
import json
import sys
import time
import uuid
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

import numpy as np
from playwright.sync_api import sync_playwright

from comfyui import PACK, PACK_NAME, ComfyUIServer
from demo import made_up, portrait, whole_photo
from frontend import CHROMIUM_FLAGS, Frontend, find_chromium
from workflow_canvas import Block, Node, Workflow
from workflow_graphs import MAKEUP, PHOTO, PHOTO_FOLDER, PORTRAIT, TARGET, WORKFLOWS
from workflow_models import MODELS

FOLDER = PACK / "workflows"
GAP, TITLE_HEIGHT, PADDING, GROUP_TITLE = 26, 30, 18, 44
NOTE_COLORS = {"color": "#222", "bgcolor": "#000"}  # as in ComfyUI's own templates

BUILD = """async ({nodes, links}) => {
    app.graph.clear()
    for (const {id, type, title, properties, colors, widgets, labels} of nodes) {
        const node = LiteGraph.createNode(type)
        if (!node) throw Error(`The frontend has no node ${type}`)
        // A node that gets the id of one in the graph before would get that one's values where none are named.
        const defaults = Object.fromEntries(node.widgets?.map(one => [one.name, one.value]) ?? [])
        node.id = id
        app.graph.add(node)
        if (title) node.title = title
        Object.assign(node.properties, properties)
        Object.assign(node, colors)
        for (const [name, value] of Object.entries({...defaults, ...widgets})) {
            const widget = node.widgets?.find(one => one.name === name)
            if (!widget) throw Error(`${type} has no widget ${name}: ${node.widgets?.map(one => one.name)}`)
            const known = widget.options?.values
            if (value && Array.isArray(known) && !known.includes(value))
                throw Error(`${type}.${name}: ${value} not in ${known}`)
            widget.value = value
            widget.callback?.(value)
        }
        for (const [name, label] of Object.entries(labels)) {
            node.widgets.find(one => one.name === name).label = label
            node.inputs.find(one => one.widget?.name === name).label = label  // this one is saved
        }
    }
    for (const [from, output, to, input] of links) {
        const [source, target] = [app.graph.getNodeById(from), app.graph.getNodeById(to)]
        const slots = [source.findOutputSlot(output), target.findInputSlot(input)]
        if (slots.includes(-1)) throw Error(`No link ${source.type}.${output} -> ${target.type}.${input}`)
        if (!source.connect(slots[0], target, slots[1])) throw Error(`${source.type}.${output} does not fit ${input}`)
        await new Promise(requestAnimationFrame)  // Autogrow adds its next socket
    }
}"""

# Nodes 2.0 draws nodes as elements, mostly taller than the classic canvas does.
SIZES = """() => Object.fromEntries(app.graph.nodes.map(node => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`)
    const title = LiteGraph.NODE_TITLE_HEIGHT
    const [width, height] = element ? [element.offsetWidth, element.offsetHeight - title] : node.computeSize()
    return [node.id, [width, height]]
}))"""

PLACE = """({places, groups}) => {
    for (const [id, {pos, size}] of Object.entries(places)) {
        const node = app.graph.getNodeById(id)
        node.setSize(size)
        node.pos = pos
    }
    for (const {title, color, bounds} of groups) {
        const group = new LiteGraph.LGraphGroup(title)
        group.color = color
        group.pos = bounds.slice(0, 2)
        group.size = bounds.slice(2)
        app.graph.add(group)
    }
}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[], metavar="name", help=f"of {', '.join(WORKFLOWS)}; else all")
    parser.add_argument("--thumbnails", action="store_true", help="make the pictures instead of the workflows")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(WORKFLOWS)
    if unknown:
        parser.error(f"no workflow {', '.join(sorted(unknown))}. How to fix: name some of {', '.join(WORKFLOWS)}")
    names = arguments.names or list(WORKFLOWS)
    with ComfyUIServer() as server:
        if arguments.thumbnails:
            from thumbnails import make_thumbnail

            for name in names:
                print(make_thumbnail(server, name))
        else:
            export(server, [WORKFLOWS[name]() for name in names])


def export(server: ComfyUIServer, flows: list[Workflow]):
    put_files_in_place(server)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        sizes = {nodes_2: _measure(server, browser, flows, nodes_2) for nodes_2 in (True, False)}
        page = Frontend(server, browser)
        for flow in flows:
            _build(page, flow)
            largest = {node.id: _largest(node, sizes, flow) for node in flow.nodes}
            page.page.evaluate(PLACE, layout(flow, largest))
            page.load(exported(page, "workflow"))  # loaded once, so that loading and saving change nothing any more
            _write(page, flow)
            page.screenshot(f"export_{flow.name}")
        _raise_errors(page)
        browser.close()


def put_files_in_place(server: ComfyUIServer):
    """What the workflows name must exist, or the frontend reports it as missing: pictures, a folder, a model file."""
    server.upload_image(portrait(), PORTRAIT)
    server.upload_image(made_up(), MAKEUP)
    server.upload_image(whole_photo(), PHOTO)
    server.upload_image(whole_photo(), PHOTO, subfolder=PHOTO_FOLDER)
    server.upload_image(np.full((512, 512, 3), 128, np.uint8), TARGET)
    for model in MODELS:
        (server.models_dir / model["directory"] / model["name"]).touch()


def _measure(server, browser, flows, nodes_2: bool) -> dict:
    page = Frontend(server, browser, nodes_2)
    sizes = {}
    for flow in flows:
        _build(page, flow)
        page.load(exported(page, "workflow"))  # a loaded node may be higher than one that was just made
        sizes[flow.name] = _settled_sizes(page)
    _raise_errors(page)
    page.close()
    return sizes


def _settled_sizes(page: Frontend) -> dict:
    """Nodes 2.0 takes its time to draw its elements: the sizes, once they no longer change."""
    before, sizes = None, {}
    while sizes != before:
        page.page.wait_for_timeout(1500)
        before, sizes = sizes, page.page.evaluate(SIZES)
    return sizes


def _build(page: Frontend, flow: Workflow):
    nodes = [
        {
            "id": node.id,
            "type": node.class_type,
            "title": node.title,
            "widgets": node.widgets,
            "properties": node.properties | _origin(node),
            "colors": NOTE_COLORS if node.class_type == "MarkdownNote" else {},
            "labels": {widget: label for one, widget, label in (flow.app.inputs if flow.app else []) if one is node},
        }
        for node in flow.nodes
    ]
    links = [link for node in flow.nodes for link in node.links]
    page.page.evaluate(BUILD, {"nodes": nodes, "links": links})


def _origin(node: Node) -> dict:
    """The pack that a node is from, for ComfyUI Manager's "install missing nodes"."""
    if node.class_type == "MarkdownNote":
        return {}
    return {"cnr_id": PACK_NAME if node.class_type.startswith("FaceProtect") else "comfy-core"}


def _largest(node: Node, sizes: dict, flow: Workflow) -> tuple[int, int]:
    """The size of the description, made higher where one of the two ways of drawing needs it; notes scroll."""
    if node.class_type == "MarkdownNote":
        return node.size
    heights = [int(measured[flow.name][str(node.id)][1]) + 1 for measured in sizes.values()]
    return node.size[0], max(node.size[1], *heights)


def layout(flow: Workflow, sizes: dict[int, tuple[int, int]]) -> dict:
    """Positions of all nodes and frames of all blocks, without an overlap."""
    places, groups, left = {}, [], 0
    for blocks in flow.canvas:
        top = 0
        extents = [_place_block(block, left, 0, sizes)[1] for block in blocks]
        width = max(extent[0] for extent in extents)
        for block in blocks:
            placed, (_, height) = _place_block(block, left, top, sizes)
            places |= placed
            groups.append({"title": block.title, "color": block.color, "bounds": [left, top, width, height]})
            top += height + GAP
        left += width + GAP
    return {"places": places, "groups": groups}


def _place_block(block: Block, left: int, top: int, sizes) -> tuple[dict, tuple[int, int]]:
    places, x, bottom = {}, left + PADDING, top
    for column in block.columns:
        y = top + GROUP_TITLE
        width = max(sizes[node.id][0] for node in column)
        for node in column:
            y += TITLE_HEIGHT
            places[node.id] = {"pos": [x, y], "size": [width, sizes[node.id][1]]}
            y += sizes[node.id][1] + GAP
        x, bottom = x + width + GAP, max(bottom, y - GAP)
    return places, (x - GAP + PADDING - left, bottom + PADDING - top)


def _write(page: Frontend, flow: Workflow):
    graph = exported(page, "workflow")
    graph["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK_NAME}/workflows/{flow.name}"))
    graph["extra"].pop("ds", None)  # without it, the frontend shows the whole graph
    if flow.app:
        inputs = [[node.id, widget] for node, widget, _ in flow.app.inputs]
        graph["extra"] |= {
            "linearMode": True,
            "linearData": {"inputs": inputs, "outputs": [node.id for node in flow.app.outputs]},
        }
    files = {FOLDER / f"{flow.name}.json": graph, FOLDER / "api" / f"{flow.name}.json": exported(page, "output")}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(path.relative_to(PACK))


def exported(page: Frontend, what: str) -> dict:
    """The frontend's export: "workflow" (UI format) or "output" (API format), as its JSON file would hold it."""
    script = "async what => JSON.stringify((await app.graphToPrompt())[what])"
    return json.loads(page.page.evaluate(script, what))


def _raise_errors(page: Frontend):
    if page.errors:
        raise RuntimeError(f"The frontend reported errors: {page.errors}. How to fix: correct workflow_graphs.py.")


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s")
