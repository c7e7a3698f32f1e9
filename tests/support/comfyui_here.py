"""Workflows on ComfyUI's own executor in this process: its validation, its Load Image, this pack's nodes; no server."""

import asyncio
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace


class Silent:
    """In the place of ComfyUI's server: nobody listens."""

    client_id, last_node_id, sockets_metadata = None, None, {}

    def send_sync(self, *_):
        pass

    def send_progress_text(self, *_):
        pass


@dataclass
class Outcome:
    """What became of a workflow. refused: why ComfyUI did not start it. error: the exception's message."""

    refused: str = ""
    error: str = ""
    error_type: str = ""
    saved: list[Path] = field(default_factory=list)


class ComfyUIHere:
    """ComfyUI's input, output and temp folders in `folder`, and `run(prompt)`."""

    def __init__(self, pack: SimpleNamespace, folder: Path, monkeypatch):
        import folder_paths
        import server

        import nodes

        self.folder, listening = folder, Silent()
        for name in ("input", "output", "temp"):
            (folder / name).mkdir()
            monkeypatch.setattr(folder_paths, f"{name}_directory", str(folder / name))
        monkeypatch.setattr(server.PromptServer, "instance", listening, raising=False)
        for node in pack.nodes.NODES:
            monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node.GET_SCHEMA().node_id, node)
        self._server = listening

    def run(self, prompt: dict) -> Outcome:
        import execution

        before, prompt_id = set(self._files()), uuid.uuid4().hex
        valid, problem, outputs, node_errors = asyncio.run(execution.validate_prompt(prompt_id, prompt, None))
        if not valid:
            return Outcome(refused=f"{problem} {node_errors}")
        cache = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        executor = execution.PromptExecutor(self._server, execution.CacheType.CLASSIC, cache)
        executor.execute(prompt, prompt_id, {"client_id": None}, outputs)
        outcome = Outcome(saved=sorted(set(self._files()) - before))
        for event, data in executor.status_messages:
            if event == "execution_error":
                outcome.error, outcome.error_type = data["exception_message"], data["exception_type"]
        return outcome

    def _files(self) -> list[Path]:
        return [path for path in (self.folder / "output").rglob("*") if path.is_file()]
