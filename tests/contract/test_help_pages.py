"""Every node has a help page in the frontend's "info" panel, and the page is about that node as it is."""

import re

import pytest

from comfyui import PACK, PACK_NAME

DOCS = PACK / "js/docs"
SECTIONS = ("## What it implements", "## Inputs", "## Outputs", "## Tips", "## Limits")

SHOWN = ("required", "optional")  # and not "hidden"
PANEL_WIDTH = 29  # characters of an equation that the panel shows without scrolling


@pytest.fixture(scope="module")
def schemas(comfyui) -> dict[str, dict]:
    """Node id -> what ComfyUI tells the frontend about it."""
    schemas = comfyui.object_info().items()
    return {node: schema for node, schema in schemas if schema["python_module"] == f"custom_nodes.{PACK_NAME}"}


def test_there_is_a_page_for_every_node_and_no_other(schemas):
    assert sorted(page.stem for page in DOCS.glob("*.md")) == sorted(schemas)


def test_the_frontend_gets_each_page(comfyui, schemas):
    for node in schemas:
        assert comfyui.get(f"/extensions/{PACK_NAME}/docs/{node}.md").content == (DOCS / f"{node}.md").read_bytes()


def test_each_page_has_the_nodes_name_an_equation_and_all_sections(schemas):
    for node, schema in schemas.items():
        page = _page(node)
        assert page.startswith(f"# {schema['display_name']}\n"), node
        assert [section for section in SECTIONS if section not in page] == [], node
        assert re.search(r"^```\n.+?^```$", page, re.MULTILINE | re.DOTALL), node


def test_equations_fit_the_narrow_panel(schemas):
    for node in schemas:
        equations = re.findall(r"^```\n(.+?)^```$", _page(node), re.MULTILINE | re.DOTALL)
        assert [line for text in equations for line in text.splitlines() if len(line) > PANEL_WIDTH] == [], node


def test_each_page_lists_the_nodes_inputs(schemas):
    for node, schema in schemas.items():
        inputs = [name for kind in SHOWN for name in schema["input_order"].get(kind, [])]
        assert sorted(_listed(node, "## Inputs")) == sorted(inputs), node


def test_each_page_lists_the_nodes_outputs_in_their_order(schemas):
    for node, schema in schemas.items():
        assert _listed(node, "## Outputs") == schema["output_name"], node


def test_each_page_gives_the_defaults_that_the_node_has(schemas):
    for node, schema in schemas.items():
        for name, default in _defaults(schema):
            assert f"default {default}" in _entry(node, name), f"{node}.{name}: {default}"


def _page(node: str) -> str:
    return (DOCS / f"{node}.md").read_text(encoding="utf-8")


def _listed(node: str, section: str) -> list[str]:
    """The names that a section's list explains."""
    text = _page(node).split(section, 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^- \*\*(\w+)\*\* \(", text, re.MULTILINE)


def _entry(node: str, name: str) -> str:
    inputs = _page(node).split("## Inputs", 1)[1].split("## Outputs", 1)[0]
    return next(" ".join(entry.split()) for entry in inputs.split("\n- ") if entry.startswith(f"**{name}** ("))


def _defaults(schema: dict):
    """(name, default as the page writes it) of every widget that has one."""
    for shown in SHOWN:
        for name, (kind, options) in schema["input"].get(shown, {}).items():
            default = options.get("default")
            if isinstance(default, bool):
                yield name, "on" if default else "off"
            elif isinstance(default, (int, float)):
                yield name, f"{default:g}"
            elif kind == "COMBO" and default is not None:
                yield name, f"*{default}*"
