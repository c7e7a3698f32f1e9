"""A recogniser is known again by its weights, however it is called, used or stored."""

from dataclasses import replace

import torch
from safetensors.torch import save_file
from torch import nn

from faceprotect_core import FRSurrogate, load_surrogate
from faceprotect_core.surrogates.networks.mobile_facenet import MobileFaceNet
from faceprotect_core.surrogates.onnx.file import read_onnx
from onnx_models import THIN, iresnet_model, known, random_iresnet
from tiny import tiny_surrogate


def test_a_network_keeps_its_fingerprint_under_another_name_threshold_alignment_and_exact_dtype():
    one = tiny_surrogate(dtype=torch.float32)
    others = [replace(one, name="other", default_threshold=0.2), replace(one, template="arcface_112", input_size=32)]
    others += [one.to(dtype=torch.float64), tiny_surrogate(dtype=torch.float32)]
    assert {other.fingerprint for other in others} == {one.fingerprint}


def test_another_weight_shape_or_layer_is_another_network():
    one = tiny_surrogate(dtype=torch.float32)
    changed, shaped, layered = (FRSurrogate(_copy(one.module)) for _ in range(3))
    changed.module[4].bias[0] += 1e-3
    shaped.module[4].bias = nn.Parameter(shaped.module[4].bias[None], requires_grad=False)
    layered.module[1] = nn.ReLU()
    prints = [other.fingerprint for other in (one, changed, shaped, layered)]
    assert len(set(prints)) == 4


def test_functions_are_told_apart_by_identity():
    functions = [lambda image: image.mean((2, 3)) for _ in range(2)]
    one, other = (FRSurrogate(function) for function in functions)
    assert one.fingerprint != other.fingerprint
    assert replace(one, default_threshold=0.1).fingerprint == one.fingerprint
    assert FRSurrogate(nn.Flatten().eval()).fingerprint != FRSurrogate(nn.Flatten().eval()).fingerprint


def test_every_kind_of_file_of_one_network_gives_the_same(tmp_path):
    torch.manual_seed(0)
    state = MobileFaceNet().state_dict()
    torch.save(state, tmp_path / "a.pth")
    # Whether BatchNorm's step counters are in the file, and what they say, makes no difference.
    save_file({name: tensor for name, tensor in state.items() if "num_batches" not in name}, tmp_path / "b.safetensors")
    one, other = (load_surrogate(tmp_path / name) for name in ("a.pth", "b.safetensors"))
    assert one.fingerprint == other.fingerprint


def test_a_network_from_onnx_is_the_same(tmp_path):
    network = random_iresnet(fused=True)
    path = tmp_path / "recogniser.onnx"
    path.write_bytes(iresnet_model(network).SerializeToString())
    _, tensors = read_onnx(path, known)
    read = THIN.build().eval()
    read.load_state_dict(tensors)
    assert FRSurrogate(read).fingerprint == FRSurrogate(network).fingerprint


def _copy(module: nn.Module) -> nn.Module:
    return nn.Sequential(*tiny_surrogate(dtype=next(module.parameters()).dtype).module).eval()
