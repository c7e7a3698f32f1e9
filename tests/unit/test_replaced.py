"""An attribute that has another value for a while is afterwards as it was."""

import pytest

from faceprotect_core.replaced import replaced


class Layer:
    casts = False


def test_an_attribute_of_the_object_comes_back_after_an_error_too():
    layer = Layer()
    layer.casts = "once"
    with pytest.raises(KeyError), replaced(layer, "casts", True):
        assert layer.casts is True
        raise KeyError
    assert layer.casts == "once"


def test_an_attribute_of_the_class_is_seen_again_and_was_never_changed():
    layer, other = Layer(), Layer()
    with replaced(layer, "casts", True):
        assert layer.casts and not other.casts
    assert vars(layer) == {} and layer.casts is False
