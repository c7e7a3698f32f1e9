"""What a workflow is described with: nodes, and the blocks in which they stand.

A value that is another node's output becomes a link, any other value a widget's.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Output(NamedTuple):
    node: "Node"
    name: str


@dataclass(eq=False)
class Node:
    id: int
    class_type: str
    title: str | None
    inputs: dict
    size: tuple[int, int] = (0, 0)
    properties: dict = field(default_factory=dict)

    def __getitem__(self, output: str) -> Output:
        return Output(self, output)

    @property
    def widgets(self) -> dict:
        return {name: value for name, value in self.inputs.items() if not isinstance(value, Output)}

    @property
    def links(self) -> list[tuple[int, str, int, str]]:
        outputs = [(name, value) for name, value in self.inputs.items() if isinstance(value, Output)]
        return [(output.node.id, output.name, self.id, name) for name, output in outputs]


@dataclass
class Block:
    title: str
    color: str
    columns: list[list[Node]]


@dataclass
class App:
    """What the form shows: widgets as (node, widget, what the form calls it), and nodes whose results are shown."""

    inputs: list[tuple[Node, str, str]]
    outputs: list[Node]


@dataclass
class Workflow:
    """A graph and where its blocks stand: a list of columns, each a list of blocks from top to bottom.

    app: how ComfyUI's App mode shows it as a form; without it, it opens as a graph.
    """

    name: str
    nodes: list[Node] = field(default_factory=list)
    canvas: list[list[Block]] = field(default_factory=list)
    app: App | None = None

    def node(self, class_type, title=None, size=(0, 0), properties=None, **inputs) -> Node:
        """Adds a node; size is the least it gets, a dot in an input's name is written as two underscores, and
        size_ is the input size."""
        values = {name.replace("__", ".").rstrip("_"): value for name, value in inputs.items()}
        node = Node(len(self.nodes) + 1, class_type, title, values, size, properties or {})
        self.nodes.append(node)
        return node
