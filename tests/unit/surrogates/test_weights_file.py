"""Weights files that users have: every format gives the same network; every bad file is refused, and nothing is run."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from faceprotect_core import ProtectionError
from faceprotect_core.surrogates import load_surrogate
from faceprotect_core.surrogates.networks.inception_resnet import InceptionResnetV1
from faceprotect_core.surrogates.networks.mobile_facenet import MobileFaceNet
from faceprotect_core.surrogates.weights_file import read_tensors, to_float32
from needs import missing

PHOTO = torch.rand(1, 3, 50, 60, generator=torch.Generator().manual_seed(3))


@cache
def weights() -> dict:
    """A MobileFaceNet of random weights, with statistics that are not the initial ones."""
    torch.manual_seed(5)
    tensors = MobileFaceNet().state_dict()
    for name, tensor in tensors.items():
        if name.endswith("running_var"):
            tensors[name] = tensor + torch.rand_like(tensor)
    return {name: tensor.detach() for name, tensor in tensors.items()}


@cache
def expected_embedding() -> torch.Tensor:
    network = MobileFaceNet().eval()
    network.load_state_dict(weights())
    pixels = nn.functional.interpolate(PHOTO, size=(112, 112), mode="bilinear", align_corners=False)
    return network(2 * pixels - 1).detach()


def as_dtype(dtype: torch.dtype) -> dict:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights().items()}


def save(content: object, path: Path, legacy: bool = False) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


FORMATS: dict[str, Callable[[Path], None]] = {
    "file.safetensors": lambda path: save_file(weights(), path),
    "capitals.SAFETENSORS": lambda path: save_file(weights(), path),
    "file.pth": lambda path: save(weights(), path),
    "file.pt": lambda path: save(OrderedDict(weights()), path),
    "file.bin": lambda path: save(weights(), path),
    "legacy.pth": lambda path: save(weights(), path, legacy=True),
    "checkpoint.pth": lambda path: save({"epoch": 3, "state_dict": weights(), "note": "best"}, path),
    "twice.pth": lambda path: save({"model": {"state_dict": weights()}}, path),
    "parallel.pth": lambda path: save({f"module.{name}": one for name, one in weights().items()}, path),
    "parameters.pth": lambda path: save(
        {name: nn.Parameter(one) if one.is_floating_point() else one for name, one in weights().items()}, path
    ),
    "double.pth": lambda path: save(as_dtype(torch.float64), path),
    "without_counters.pth": lambda path: save(
        {name: one for name, one in weights().items() if "num_batches" not in name}, path
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_network(tmp_path, name):
    FORMATS[name](tmp_path / name)
    surrogate = load_surrogate(tmp_path / name)
    assert (surrogate.name, surrogate.metric, surrogate.template) == (Path(name).stem, "cosine", "arcface_112")
    assert surrogate.source.startswith(f"MobileFaceNet in {name}")
    assert surrogate.threshold() == 0.301611
    assert {parameter.dtype for parameter in surrogate.module.parameters()} == {torch.float32}
    assert (surrogate.embed(PHOTO) - expected_embedding()).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    save_file(as_dtype(dtype), tmp_path / "half.safetensors")
    surrogate = load_surrogate(str(tmp_path / "half.safetensors"))
    assert {parameter.dtype for parameter in surrogate.module.parameters()} == {torch.float32}
    assert surrogate.cosine(surrogate.embed(PHOTO), expected_embedding()) > 0.999


def test_weights_loaded_in_inference_mode_carry_gradients_and_outlive_the_file(tmp_path):
    save_file(weights(), tmp_path / "file.safetensors")
    with torch.inference_mode():
        surrogate = load_surrogate(tmp_path / "file.safetensors")
    with (tmp_path / "file.safetensors").open("r+b") as file:  # a download that goes on over the old file
        file.truncate(0)
    image = PHOTO.clone().requires_grad_()
    surrogate.cosine(surrogate.embed(image), torch.ones(1, 512)).sum().backward()
    assert image.grad.abs().sum() > 0
    assert not any(tensor.is_meta or tensor.is_inference() for tensor in surrogate.module.state_dict().values())


def test_the_classifier_of_facenet_is_left_out(tmp_path):
    torch.manual_seed(0)
    tensors = InceptionResnetV1().state_dict() | {"logits.weight": torch.zeros(7, 512), "logits.bias": torch.zeros(7)}
    save_file(tensors, tmp_path / "facenet.safetensors")
    surrogate = load_surrogate(tmp_path / "facenet.safetensors")
    assert surrogate.input_size == 160 and not hasattr(surrogate.module, "logits")
    assert surrogate.embed(PHOTO).norm().item() == pytest.approx(1)


# Thresholds


def test_a_threshold_of_ones_own_is_the_default_and_says_so(tmp_path):
    save(weights(), tmp_path / "mine.pth")
    surrogate = load_surrogate(tmp_path / "mine.pth", threshold=0.42)
    assert (surrogate.threshold(), surrogate.threshold(0.1)) == (0.42, 0.183635)
    assert surrogate.thresholds_source.startswith("the default 0.42 is the user's own")
    assert load_surrogate("dlib_resnet", threshold=0.5).threshold() == 0.5
    for threshold in (1.5, float("nan")):
        with pytest.raises(ProtectionError, match=f"threshold of {threshold} for mine.*How to fix"):
            load_surrogate(tmp_path / "mine.pth", threshold=threshold)


# Files that are refused


class RunsCode:
    """Unpickled by plain pickle, it would write the file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return (open, (str(self.canary), "w"))


@dataclass(frozen=True)
class Bad:
    file: str
    write: Callable[[Path], None]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return self.file


def canary(path: Path) -> Path:
    return path.parent / "canary"


def cut(path: Path, keep: float, legacy: bool = False) -> None:
    save(weights(), path, legacy) if path.suffix == ".pth" else save_file(weights(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def compress(path: Path) -> None:
    save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def changed(name: str, tensor: torch.Tensor) -> dict:
    return weights() | {name: tensor}


def bomb(*shape: int) -> torch.Tensor:
    """One number that claims to be many."""
    return torch.zeros(1).expand(*shape)


EVIL = ("wants to run code", "It was NOT run", "safetensors.torch.save_file(model.state_dict()")
BAD = [
    Bad("missing.pth", lambda path: None, ("there is no file", "missing.pth")),
    Bad("folder.pth", lambda path: path.mkdir(), ("there is no file", "folder.pth")),
    Bad("empty.pth", lambda path: path.touch(), ("is empty",)),
    Bad("empty.safetensors", lambda path: path.touch(), ("is empty",)),
    Bad("weights.ckpt", lambda path: save(weights(), path), ("'.ckpt'", ".safetensors, .pth")),
    Bad("text.pth", lambda path: path.write_text("häßlich " * 99, encoding="utf-8"), ("is a text",)),
    Bad("page.pth", lambda path: path.write_text("<!DOCTYPE html>" * 9), ("web page",)),
    Bad("page.safetensors", lambda path: path.write_text("  <html>" * 99), ("web page",)),
    Bad("pointer.pth", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), ("LFS pointer",)),
    Bad("noise.pth", lambda path: path.write_bytes(bytes(range(255, 0, -1)) * 9), ("is damaged",)),
    Bad("noise.safetensors", lambda path: path.write_bytes(bytes(range(255, 0, -1)) * 9), ("(2295 bytes)",)),
    Bad("zeros.pth", lambda path: path.write_bytes(bytes(999)), ("is no complete .pth",)),
    Bad("half.pth", lambda path: cut(path, 0.5), ("is no complete .pth",)),
    Bad("half_legacy.pth", lambda path: cut(path, 0.5, legacy=True), ("is no complete .pth",)),
    Bad("half.safetensors", lambda path: cut(path, 0.5), ("is no complete .safetensors",)),
    Bad("head.safetensors", lambda path: cut(path, 0.001), ("is no complete .safetensors",)),
    Bad("evil.pth", lambda path: save(weights() | {"x": RunsCode(canary(path))}, path), (*EVIL, "(io.open)")),
    Bad("evil_legacy.pth", lambda path: save([RunsCode(canary(path))], path, legacy=True), EVIL),
    Bad("evil_pickle.pth", lambda path: path.write_bytes(pickle.dumps(RunsCode(canary(path)), 2)), EVIL),
    Bad("evil_new_pickle.pt", lambda path: path.write_bytes(pickle.dumps(RunsCode(canary(path)), 4)), ("was run",)),
    Bad("module.pth", lambda path: save(nn.Sequential(nn.Linear(2, 2)), path), (*EVIL, "container.Sequential")),
    Bad("script.pt", lambda path: torch.jit.script(nn.Linear(2, 2)).save(path), ("TorchScript",)),
    Bad("compressed.pth", compress, ("compressed archive",)),
    Bad("list.pth", lambda path: save([torch.zeros(2)], path), ("holds a list",)),
    Bad("one_tensor.pth", lambda path: save(torch.zeros(2), path), ("holds a Tensor",)),
    Bad("no_tensor.pth", lambda path: save({"state_dict": {}}, path), ("0 entries",)),
    Bad("numbers.pth", lambda path: save(weights() | {"epoch": 3}, path), ("'epoch' is a int",)),
    Bad("long.pth", lambda path: save({"n" * 10_000: torch.zeros(2)}, path), ("a name of 10000 letters",)),
    Bad("nan.pth", lambda path: save(changed("conv1.prelu.weight", torch.full((64,), torch.nan)), path), ("64 of 64",)),
    Bad("overflow.pth", lambda path: save(changed("bn.bias", torch.zeros(512).double() + 1e300), path), ("infinite",)),
    Bad("variance.pth", lambda path: save(changed("bn.running_var", -torch.ones(512)), path), ("negative",)),
    Bad("complex.pth", lambda path: save(changed("bn.bias", torch.zeros(512, dtype=torch.cfloat)), path), ("complex",)),
    Bad("integer.pth", lambda path: save(changed("bn.bias", torch.zeros(512, dtype=torch.int8)), path), ("int8",)),
    Bad("sparse.pth", lambda path: save({"a": torch.eye(3).to_sparse()}, path), ("no plain tensor", "sparse")),
    Bad("meta.pth", lambda path: save({"a": torch.empty(3, device="meta")}, path), ("no plain tensor", "meta")),
    Bad("bomb.pth", lambda path: save(changed("linear.weight", bomb(512, 512, 10**7)), path), ("and the file has",)),
    Bad("bomb_counter.pth", lambda path: save(changed("bn.num_batches_tracked", bomb(10**12)), path), ("claims 4",)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_file_is_refused_with_a_reason_and_nothing_is_run(tmp_path, bad):
    bad.write(tmp_path / bad.file)
    with pytest.raises(ProtectionError) as refusal:
        load_surrogate(tmp_path / bad.file)
    for part in (bad.file, *bad.says, "How to fix: "):
        assert part in str(refusal.value)
    assert "weights_only" not in str(refusal.value)
    assert not canary(tmp_path).exists()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_quantised_file_is_refused(tmp_path):
    try:
        quantised = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
    except (RuntimeError, AttributeError):
        missing("This torch makes no quantised tensors any more.")
    save({"a": quantised}, tmp_path / "quantised.pth")
    with pytest.raises(ProtectionError, match="no plain tensor.*qint8"):
        load_surrogate(tmp_path / "quantised.pth")


def test_the_canary_would_have_been_written(tmp_path):
    pickle.loads(pickle.dumps(RunsCode(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_an_unknown_network_says_what_was_found_and_what_is_supported(tmp_path):
    save({f"layers.{i}.weight": torch.zeros(4, i + 1) for i in range(5)}, tmp_path / "unknown.pth")
    found = r"unknown.pth.*5 tensors, layers.0.weight \[4, 1\], layers.1.weight \[4, 2\].*\.\.\."
    with pytest.raises(
        ProtectionError, match=rf"{found}.*How to fix.*IR-SE.*MobileFaceNet.*InceptionResnetV1.*IResNet"
    ):
        load_surrogate(tmp_path / "unknown.pth")


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({name: one for name, one in weights().items() if name != "bn.bias"}, r"lacks bn\.bias"),
        (weights() | {"extra.weight": torch.zeros(2)}, r"has besides extra\.weight"),
        (changed("bn.bias", torch.zeros(4)), r"another shape bn\.bias \[4\] instead of \[512\]"),
    ],
    ids=["lacking", "besides", "misshapen"],
)
def test_nearly_the_right_network_says_what_differs(tmp_path, tensors, says):
    save(tensors, tmp_path / "nearly.pth")
    with pytest.raises(ProtectionError, match=rf"nearly.pth looks like MobileFaceNet .*{says}.*How to fix"):
        load_surrogate(tmp_path / "nearly.pth")


def test_tensors_are_read_as_they_are_and_copied_only_on_demand(tmp_path):
    save({"a": torch.ones(3, dtype=torch.float16)}, tmp_path / "file.pth")
    tensors = read_tensors(tmp_path / "file.pth")
    assert tensors["a"].dtype == torch.float16
    copies = to_float32(tensors, tmp_path / "file.pth")
    assert copies["a"].dtype == torch.float32 and copies["a"].tolist() == [1, 1, 1]


def test_a_name_that_is_neither_built_in_nor_a_file_lists_both():
    with pytest.raises(ProtectionError, match=r"'arcface' is not a built-in surrogate.*dlib_resnet.*\.onnx"):
        load_surrogate("arcface")
