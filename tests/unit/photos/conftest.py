import pytest

from faceprotect_core.instant import protect
from faceprotect_core.instant.protect import load_protector_network
from faceprotect_core.photos import batch


@pytest.fixture(params=["missing from the package", "cannot be read"])
def no_network(request, tmp_path, monkeypatch):
    """What is said of the network of instant where its file is not there, or is what git keeps for a large file."""
    monkeypatch.setattr(protect, "WEIGHTS", tmp_path / "nowhere.safetensors")
    if request.param == "cannot be read":
        protect.WEIGHTS.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5930000\n")
    load_protector_network.cache_clear()
    batch._warn_once.cache_clear()
    yield f"nowhere.safetensors of instant .*{request.param}.*How to fix: choose another preset"
    load_protector_network.cache_clear()
