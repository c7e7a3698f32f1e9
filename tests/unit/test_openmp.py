"""Threads that wait spin a little and then sleep, unless the user says otherwise; said before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

LOOK = """
import os, sys
class Look:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            sys.exit(f"{os.environ.get('OMP_WAIT_POLICY')} {os.environ.get('GOMP_SPINCOUNT')}")
sys.meta_path.insert(0, Look())
import faceprotect_core
"""


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "None 2000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"GOMP_SPINCOUNT": "0"}, "None 0"),
    ],
)
def test_what_torch_finds(chosen, expected):
    others = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run([sys.executable, "-c", LOOK], env=others | chosen, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == expected
