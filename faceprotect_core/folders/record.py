"""What was done in a folder of photos: `faceprotect.json`, so that a run can be stopped and gone on with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from ..checks import ProtectionError, require
from ..files import write_atomically

RECORD = "faceprotect.json"
RECORD_VERSION = 1


@dataclass
class Record:
    """`faceprotect.json`: photo's name -> what was done with it."""

    path: Path
    photos: dict[str, dict] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The folder's record; an empty one where there is none. A damaged one is an error, and left as it is."""
        path = folder / RECORD
        if not path.exists():
            return cls(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version, photos = content["version"], content["photos"]
            if not all(isinstance(entry["status"], str) for entry in photos.values()):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ProtectionError(
                f"the record {RECORD} in the output folder is damaged ({type(error).__name__})",
                "restore it, or move it away; then the photos that are already there are not known any more, and are "
                "done again with --overwrite",
            ) from error
        require(
            version == RECORD_VERSION,
            f"the record {RECORD} in the output folder is of version {version!r}, this is version {RECORD_VERSION}",
            "use another output folder, or the version of FaceProtect that wrote it",
        )
        return cls(path, photos)

    def announce(self, name: str, output: str, digest: str) -> None:
        """Written before a file gets its name: a stop just after that leaves no file that no run knows."""
        self.put(name, {"status": "writing"} | self.photos.get(name, {}) | {"coming": {output: digest}})

    def put(self, name: str, entry: dict) -> None:
        """Takes in one photo and writes the whole record, at once or not at all."""
        self.photos[name] = entry
        text = json.dumps({"version": RECORD_VERSION, "photos": self.photos}, indent=1, sort_keys=True)
        write_atomically(self.path, text.encode())
