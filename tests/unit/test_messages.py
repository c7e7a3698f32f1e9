"""What a user can read: every error, tooltip and description in the code, and the pages."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS_OF_RESEARCH = {"evaluation", "conversion"}
ERRORS = {"require": 1, "ProtectionError": 0}  # from which argument on it is said
SAID = {"tooltip", "description", "help"}
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "js/docs").glob("*.md")]


def messages() -> Iterator[tuple[str, str]]:
    """Where it stands, and the text with {} for what is put in."""
    for folder in ("nodes", "faceprotect_core"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not ROOMS_OF_RESEARCH & set(path.parts):
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    for said in _said(node):
                        yield f"{path.relative_to(ROOT)}:{said.lineno}", _text(said)


def _said(node: ast.AST) -> list[ast.expr]:
    if not isinstance(node, ast.Call):
        return []
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    errors = node.args[ERRORS[name] :] if name in ERRORS else []
    return [*errors, *(keyword.value for keyword in node.keywords if keyword.arg in SAID)]


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return "{}"


def test_there_are_messages():
    assert len(list(messages())) > 500


def test_no_sentence_is_a_chain_of_colons():
    """The first colon may follow the name of the node."""
    chains = {
        where: text
        for where, text in messages()
        if any(len(re.findall(r":\s", sentence)) > 1 for sentence in re.split(r"(?<=[.;])\s", text))
    }
    assert chains == {}


def test_people_read_of_distances_and_not_of_euclidean_ones():
    pages = [(path.name, path.read_text(encoding="utf-8")) for path in PAGES]
    assert [where for where, text in [*messages(), *pages] if "euclidean" in text.lower()] == []


def test_what_a_margin_is_stands_beside_it():
    """It is a knob's name; without it nobody reads of a margin."""
    alone = [text for _, text in messages() if "margin" in text.lower() and "stop_at_margin" not in text]
    assert [text for text in alone if "threshold" not in text and "FR Surrogate Loss" not in text] == []
