"""What one run on a ComfyUI server says over its websocket, and the record of it."""

import asyncio
import io
import json
import queue
import threading
import time
from dataclasses import dataclass, field

import aiohttp
import numpy as np
from PIL import Image

PREVIEW, PREVIEW_WITH_METADATA = 1, 4  # ComfyUI's protocol.py, BinaryEventTypes
FAILURES = {"execution_error": "error", "execution_interrupted": "interrupted"}


@dataclass
class Result:
    """A finished run: `.status` is "success", "error" or "interrupted"."""

    prompt_id: str
    status: str = "success"
    outputs: dict = field(default_factory=dict)  # node id -> what the node showed: {"images": [entry, ...], ...}
    error: dict | None = None  # ComfyUI's own: node_id, node_type, exception_type, exception_message, traceback
    executed: list[str] = field(default_factory=list)  # the ids of the nodes that ran, in order
    cached: list[str] = field(default_factory=list)  # the ids of the nodes that did not have to
    progress: list[dict] = field(default_factory=list)  # {"node", "value", "max", "time"}
    previews: list[np.ndarray] = field(default_factory=list)  # uint8 [H, W, C]
    messages: list[dict] = field(default_factory=list)  # every event: {"type", "data", "time"}
    finished: bool = False

    @property
    def error_message(self) -> str:
        return self.error["exception_message"] if self.error else ""

    @property
    def seconds(self) -> float:
        return self.messages[-1]["time"] - self.messages[0]["time"] if self.messages else 0.0

    def check(self) -> "Result":
        """This result, or an error that says what went wrong in the run."""
        if self.status != "success":
            raise RuntimeError(f"The run ended as {self.status!r}. {self._reason()}")
        return self

    def _reason(self) -> str:
        if self.error is None:
            return ""
        return f"{self.error['node_type']}: {self.error_message}\n{''.join(self.error['traceback'])}"

    def images(self, node_id: str | None = None) -> list[dict]:
        """The image entries that one node showed, or all nodes."""
        nodes = self.outputs if node_id is None else [node_id]
        return [entry for node in nodes for entry in self.outputs.get(node, {}).get("images", [])]

    def record(self, event: dict) -> bool:
        """Takes one event in; False when it belongs to another run."""
        kind, data = event["type"], event["data"]
        if data.get("prompt_id", self.prompt_id) != self.prompt_id:
            return False
        self.messages.append(event)
        if kind == "executing" and data["node"] is None:
            self.finished = True
        elif kind == "executing":
            self.executed.append(data["node"])
        elif kind == "execution_cached":
            self.cached.extend(data["nodes"])
        elif kind == "progress":
            self.progress.append({**data, "time": event["time"]})
        elif kind == "preview":
            self.previews.append(data["image"])
        elif kind in FAILURES:
            self.status = FAILURES[kind]
            self.error = data if kind == "execution_error" else None
        return True


class EventStream:
    """ComfyUI's websocket, read by a thread of its own, so that callers need no event loop (and may have one)."""

    def __init__(self, url: str):
        self._url = url
        self._events = queue.Queue()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    def __enter__(self):
        self._thread.start()
        if not self._connected.wait(timeout=60):
            raise ConnectionError(f"No websocket connection to {self._url} within 60 s")
        return self

    def __exit__(self, *exception):
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(timeout=10)

    def next(self, seconds: float) -> dict:
        """The next event; raises queue.Empty when none comes within that time."""
        return self._events.get(timeout=seconds)

    async def _listen(self):
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            async with aiohttp.ClientSession() as session, session.ws_connect(self._url, max_msg_size=0) as socket:
                await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
                await socket.receive()  # the server's greeting: from here on it knows this client
                self._connected.set()
                async for message in socket:
                    self._take(message)
        except asyncio.CancelledError:
            return

    def _take(self, message: aiohttp.WSMessage):
        if message.type == aiohttp.WSMsgType.TEXT:
            event = json.loads(message.data)
        elif message.type == aiohttp.WSMsgType.BINARY:
            event = _preview(message.data)
        else:
            event = None
        if event is not None:
            self._events.put({**event, "time": time.monotonic()})


def _preview(data: bytes) -> dict | None:
    kind, second = (int.from_bytes(data[start : start + 4], "big") for start in (0, 4))
    if kind == PREVIEW:
        metadata, picture = {}, data[8:]
    elif kind == PREVIEW_WITH_METADATA:
        metadata, picture = json.loads(data[8 : 8 + second]), data[8 + second :]
    else:
        return None
    return {"type": "preview", "data": {**metadata, "image": np.asarray(Image.open(io.BytesIO(picture)))}}
