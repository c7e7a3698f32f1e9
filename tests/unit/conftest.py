"""What the tests of faces share: a public-domain portrait, her face, and the built-in detector and recogniser."""

import pytest
import skimage.data

from faceprotect_core import load_surrogate
from faceprotect_core.demo import load_demo_model
from faceprotect_core.faces import find_face, load_detector
from faceprotect_core.pixels import from_pixels


@pytest.fixture(scope="session")
def detector():
    return load_detector()


@pytest.fixture(scope="session")
def recognizer():
    return load_surrogate("dlib_resnet")


@pytest.fixture(scope="session")
def astronaut():
    """NASA's portrait of Eileen Collins: [3, 512, 512]."""
    return from_pixels(skimage.data.astronaut())


@pytest.fixture(scope="session")
def face(astronaut, detector):
    return find_face(astronaut, detector)


@pytest.fixture(scope="session")
def demo():
    """The built-in diffusion model: denoiser, codec, the empty prompt's embedding."""
    return load_demo_model()
