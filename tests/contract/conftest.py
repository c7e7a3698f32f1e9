"""The pack beside ComfyUI's own modules in this process, on the CPU."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from pack import import_pack


@pytest.fixture(scope="session")
def pack(comfyui_installation, tmp_path_factory) -> SimpleNamespace:
    return import_pack(comfyui_installation.folder, tmp_path_factory.mktemp("custom_nodes"), cpu=True)


@pytest.fixture(scope="session", autouse=True)
def bfloat16_in_seconds():
    """A CPU without AVX-512 has no kernels for bfloat16, and takes minutes for a U-Net: it multiplies in float32 here,
    and rounds what comes out."""

    def rounded(function):
        def called(image, weight, bias=None, *more, **named):
            if image.dtype != torch.bfloat16 or image.device.type != "cpu":
                return function(image, weight, bias, *more, **named)
            wide = (None if x is None else x.float() for x in (image, weight, bias))
            return function(*wide, *more, **named).bfloat16()

        return called

    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in ("conv2d", "linear"):
            patch.setattr(F, name, rounded(getattr(F, name)))
        yield
