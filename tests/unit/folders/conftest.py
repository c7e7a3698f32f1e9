"""Folders of three photos, and a command that protects them without a model."""

import pytest

from faceprotect_core.folders import protector as protector_module
from folder_photos import FakeProtector, write_folders


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch):
    """The command works on one photo after the other, however many cores there are; several: unit/jobs/test_threads."""
    monkeypatch.setattr(protector_module, "photos_at_once", lambda choice: 1)


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path)


@pytest.fixture
def fake(monkeypatch):
    """The protector that the command loads."""
    made = FakeProtector()
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: made)
    return made
