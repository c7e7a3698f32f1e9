"""An ONNX file gives the same network in torch, however it is written; every other file is refused, and says why."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from faceprotect_core.checks import ProtectionError
from faceprotect_core.surrogates.networks import iresnet
from faceprotect_core.surrogates.networks.iresnet import CHANNELS
from faceprotect_core.surrogates.onnx import file as onnx_file
from faceprotect_core.surrogates.onnx.file import read_onnx
from onnx_models import iresnet_model, known, nodes, random_iresnet, set_attribute, write_iresnet_onnx


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1


def built(architecture, tensors):
    network = architecture.build().eval()
    network.load_state_dict(tensors)
    return network


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"folded": False},
        {"typed": True},
        {"shared": True},
        {"constants": True, "folded": False},
        {"reshape": True},
        {"transposed": True},
        {"epsilon": 2e-5, "folded": False},
        {"epsilon": 1e-7},
        {"opset": 8},
        {"opset": 21},
    ],
    ids=str,
)
def test_the_network_equals_the_one_in_the_file(network, image, read, layout):
    model = iresnet_model(network, **layout)
    onnx.checker.check_model(model)
    embedding = built(*read(model))(image)
    assert (embedding - network(image)).abs().max() < 1e-4
    assert embedding.std() > 0.3


@pytest.mark.parametrize("layout", [{}, {"typed": True}, {"casts": True}], ids=str)
def test_float16_files_are_computed_in_float32(image, read, layout):
    network = random_iresnet(fused=True).half().float()
    architecture, tensors = read(iresnet_model(network, dtype=np.float16, **layout))
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    assert (built(architecture, tensors)(image) - network(image)).abs().max() < 1e-4


def test_preprocessing_inside_the_file_is_taken_over_exactly(network, image, read):
    """The file wants 0..255 and computes (x - 127.5) / 128; ours wants [-1, 1]."""
    pixels = (image + 1) * 127.5
    embedding = built(*read(iresnet_model(network, preprocessing=True)))(image)
    assert (embedding - network((pixels - 127.5) / 128)).abs().max() < 1e-4


def test_the_network_equals_what_onnx_itself_computes(network, image, read):
    # The reference evaluator takes a BatchNormalization of operator sets 9 to 13 for one in training.
    model = iresnet_model(network, opset=17)
    (expected,) = ReferenceEvaluator(model).run(None, {"input.1": image.numpy()})
    assert np.abs(built(*read(model))(image).numpy(force=True) - expected).max() < 1e-4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_from_torchs_own_exporter(network, image, tmp_path):
    path = tmp_path / "exported.onnx"
    torch.onnx.export(network, (image[:1],), path, dynamo=False, opset_version=11, input_names=["data"])
    operators = {node.op_type for node in onnx.load(path).graph.node} - {"Identity"}
    assert operators == {node.op_type for node in iresnet_model(network).graph.node}
    assert (built(*read_onnx(path, known))(image) - network(image)).abs().max() < 1e-4


def test_a_file_of_real_size(image, tmp_path):
    network = random_iresnet((2, 2, 2, 2), CHANNELS)
    path = write_iresnet_onnx(tmp_path / "r18.onnx", network)
    assert 90e6 < path.stat().st_size < 100e6
    with torch.inference_mode():
        architecture, tensors = read_onnx(path)
    assert architecture.name == "IResNet-18 (fused)"
    assert not any(tensor.is_inference() for tensor in tensors.values())
    assert (built(architecture, tensors)(image[:1]) - network(image[:1])).abs().max() < 1e-4


def test_an_iresnet_of_no_known_size_is_refused_before_a_tensor_is_copied(model, read, monkeypatch):
    monkeypatch.setattr(onnx.numpy_helper, "to_array", lambda proto: pytest.fail("copied"))
    with pytest.raises(ProtectionError, match=r"\[2, 1, 1, 1\] units, 4 channels.*How to fix.*\[3, 13, 30, 3\]"):
        read(model, iresnet.recognise)


def test_detectors_and_mobile_networks_are_told_by_what_is_in_them(model, read):
    set_attribute(nodes(model, "Conv")[1], "group", 4)
    with pytest.raises(ProtectionError, match="depthwise.*w600k_mbf.*How to fix.*w600k_r50"):
        read(model)
    for operator in ("Sigmoid", "Resize", "Concat"):
        model.graph.node.append(helper.make_node(operator, ["input.1"], [operator]))
    with pytest.raises(ProtectionError, match="it has Concat, Resize, Sigmoid, and an IResNet has only Add.*Detectors"):
        read(model)
    model.graph.node[-1].domain = "com.microsoft"
    with pytest.raises(ProtectionError, match="com.microsoft"):
        read(model)


def test_weights_in_another_file_are_not_followed(model, read, tmp_path):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")
    with pytest.raises(ProtectionError, match="in another file.*How to fix.*save_as_external_data=False"):
        read(model)


def test_damaged_tensors_are_refused(network, model, read):
    def refused(change, match):
        damaged = iresnet_model(network)
        change(damaged.graph.initializer[0])
        with pytest.raises(ProtectionError, match=f"({match}).*How to fix"):
            read(damaged)

    def typed(tensor, kind):
        tensor.data_type = kind

    refused(lambda tensor: tensor.__setattr__("raw_data", tensor.raw_data[:-4]), r"shape \[4, 3, 3, 3\] and 107 values")
    refused(lambda tensor: tensor.__setattr__("raw_data", tensor.raw_data[:-1]), r"and 107.75 values")
    refused(lambda tensor: tensor.ClearField("raw_data"), "and 0 values")
    emptied = iresnet_model(network, typed=True)
    emptied.graph.initializer[0].raw_data = b""  # it counts, not the numbers beside it
    with pytest.raises(ProtectionError, match="and 0 values"):
        read(emptied)
    refused(lambda tensor: tensor.__setattr__("raw_data", b"\xff" * len(tensor.raw_data)), "NaN")
    refused(lambda tensor: typed(tensor, TensorProto.INT8), "ONNX type 3, expected float32 or float16")
    refused(lambda tensor: typed(tensor, TensorProto.BFLOAT16), "ONNX type 16")
    refused(lambda tensor: typed(tensor, 99), "ONNX type 99")
    refused(lambda tensor: tensor.dims.__setitem__(0, -4), "wrong bias")
    refused(lambda tensor: tensor.dims.__setitem__(0, 2**40), "wrong bias")
    variance = next(t for t in model.graph.initializer if t.name == nodes(model, "BatchNormalization")[0].input[4])
    variance.CopyFrom(numpy_helper.from_array(-np.ones(4, np.float32), variance.name))
    with pytest.raises(ProtectionError, match="variances .* are negative"):
        read(model)


def test_models_of_other_kinds_are_refused(model, read):
    model.opset_import[0].version = 6
    with pytest.raises(ProtectionError, match=r"operator sets \[6\], expected one from 7 on"):
        read(model)
    model.opset_import[0].version = 12
    model.functions.add(name="Conv", domain="")
    with pytest.raises(ProtectionError, match="functions or sparse tensors"):
        read(model)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"<!doctype html><html>Not found</html>", "no complete ONNX file|no ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 174383860\n", "no complete|no ONNX model"),
        (b"PK\x03\x04" + bytes(200), "no complete ONNX file"),
        (b"\x80\x02}q\x00.", "no complete ONNX file"),
        (bytes(1000), "no complete ONNX file"),
        (helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString(), "no nodes"),
    ],
    ids=["empty", "page", "lfs", "zip", "pickle", "zeros", "no nodes"],
)
def test_files_that_are_no_models(read, content, match):
    with pytest.raises(ProtectionError, match=rf"recogniser.onnx.*({match}).*How to fix: download the file again"):
        read(content)


def test_truncated_and_changed_files_never_end_in_another_error(model, read):
    content = model.SerializeToString()
    generator = np.random.default_rng(0)
    for length in generator.integers(1, len(content), 25):
        with pytest.raises(ProtectionError):
            read(content[:length])
    no_text = content.replace(b"Add", b"A\xffd")
    with pytest.raises(ProtectionError, match="How to fix"):
        read(no_text)
    # The graph's nodes come first in the file: there, a changed byte is another name, number or length.
    start = content.index(b"input.1")
    for _ in range(150):
        changed = bytearray(content)
        changed[int(generator.integers(0, start + 6000))] = int(generator.integers(0, 256))
        try:
            read(bytes(changed))
        except ProtectionError as error:
            assert "How to fix" in str(error)


def test_missing_and_huge_files(tmp_path, monkeypatch):
    with pytest.raises(ProtectionError, match=r"there is no file .*nothing.onnx"):
        read_onnx(tmp_path / "nothing.onnx")
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(ProtectionError, match="huge.onnx has 3.0 GiB, expected at most 1 GiB"):
        read_onnx(path)


def test_without_the_package_onnx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ProtectionError, match=r"w600k_r50.onnx.*How to fix.*pip install onnx"):
        read_onnx(Path("w600k_r50.onnx"))


def test_the_package_onnx_is_not_needed_to_import_the_surrogates():
    code = "import sys; sys.modules['onnx'] = None; import faceprotect_core.surrogates.onnx.file"
    root = Path(onnx_file.__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True)
