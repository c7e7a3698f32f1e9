"""What to do when a test's surroundings are missing."""

import os

import pytest


def missing(reason: str):
    """Skips on a user's machine, with the reason; fails where CI is set, because there nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI is set: nothing may be skipped)", pytrace=False)
    pytest.skip(reason)
