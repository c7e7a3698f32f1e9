import pytest

from faceprotect_core.surrogates.onnx.file import read_onnx
from onnx_models import iresnet_model, known, random_iresnet


@pytest.fixture(scope="module")
def network():
    return random_iresnet()


@pytest.fixture
def model(network):
    return iresnet_model(network)


@pytest.fixture
def read(tmp_path):
    """Writes a model or bytes to a file, and reads that as a thin network."""

    def write_and_read(content, known=known):
        path = tmp_path / "recogniser.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return read_onnx(path, known)

    return write_and_read
