"""Threads that wait sleep, unless the user says otherwise, and it is said before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LOOK = """
import os, sys
class Look:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            sys.exit(os.environ["OMP_WAIT_POLICY"])
sys.meta_path.insert(0, Look())
import faceprotect_core
"""


@pytest.mark.parametrize(("chosen", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_what_torch_finds(chosen, expected):
    others = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment = others if chosen is None else others | {"OMP_WAIT_POLICY": chosen}
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == expected
