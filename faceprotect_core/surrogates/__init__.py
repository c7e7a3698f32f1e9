"""Face recognition surrogates: one file per architecture, loaded by name or from a weights file that the user has.

    load_surrogate("dlib_resnet")             # built in, as are mobilefacenet, faceres and mobileface
    load_surrogate("models/irse50.pth")       # .safetensors, .pth, .pt, .bin, .onnx

A file is recognised by its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..checks import given, require
from .architecture import Architecture
from .base import STEP_COUNTER, FRSurrogate  # some files leave the step counters out
from .metric import METRICS
from .networks import faceres, inception_resnet, ir, iresnet, mobile_facenet, mobileface, mobilefacenet
from .networks.dlib_resnet import load_dlib_resnet
from .weights_file import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES, first_of, read_tensors, to_float32

WEIGHTS = Path(__file__).parent.parent / "weights" / "recognisers"
MEAN = "embedding_mean"  # a tensor that is no weight: what a cosine subtracts first
# Each tells from the names and shapes of a file's tensors whether they are its network's.
ARCHITECTURES: tuple[Callable[[Mapping[str, tuple[int, ...]]], Architecture | None], ...] = (
    ir.recognise,
    mobile_facenet.ARCHITECTURE.recognise,
    inception_resnet.ARCHITECTURE.recognise,
    iresnet.recognise,
    mobilefacenet.ARCHITECTURE.recognise,
    faceres.ARCHITECTURE.recognise,
    mobileface.ARCHITECTURE.recognise,
)
SUPPORTED = (
    "IR and IR-SE of 50, 100 or 152 layers (irse50.pth, ir152.pth, facexlib's recognition_arcface_ir_se50.pth), "
    "MobileFaceNet (mobile_face.pth), InceptionResnetV1 (facenet.pth, facenet-pytorch's), IResNet (arcface_torch's "
    ".pth, an InsightFace pack's recogniser as .onnx), or one that is built in (mobilefacenet, faceres, mobileface)"
)
ONNX_SUFFIX = ".onnx"
WEIGHTS_SUFFIXES = (*SAFETENSORS_SUFFIXES, *PICKLE_SUFFIXES, ONNX_SUFFIX)
SHOWN = 3


def load_surrogate(name: str | Path, threshold: float | None = None) -> FRSurrogate:
    """A face recognition network on the CPU in float32: a built-in one by its name, or any weights file.

    The kind of network is told from the tensors' names and shapes, never from the file's name.

    Args:
        name: one of `BUILT_IN_SURROGATES`, or the path of a .safetensors, .pth, .pt, .bin or .onnx file.
        threshold: the same person above this cosine (below this distance, where the metric is one); None: the
            network's own, where one is known.

    Raises:
        ProtectionError: there is no such network or file, the file is broken, wants to run code, or is of no known
            kind.
    """
    if str(name) in BUILT_IN_SURROGATES:
        surrogate = BUILT_IN_SURROGATES[str(name)]()
    else:
        path = Path(name)
        require(
            path.is_file() or path.suffix.lower() in WEIGHTS_SUFFIXES,
            f"load_surrogate: {str(name)!r} is not a built-in surrogate and no weights file",
            f"use one of {list(BUILT_IN_SURROGATES)}, or the path of a file that ends with one of "
            f"{', '.join(WEIGHTS_SUFFIXES)}",
        )
        surrogate = _from_file(path)
    return surrogate if threshold is None else _with_threshold(surrogate, threshold)


def _from_file(path: Path) -> FRSurrogate:
    if path.suffix.lower() == ONNX_SUFFIX:
        from .onnx.file import read_onnx

        architecture, tensors = read_onnx(path)
    else:
        tensors = read_tensors(path)
        architecture = _recognise(tensors, path)
    mean = tensors.pop(MEAN, None)
    return FRSurrogate(
        _network(architecture, tensors, path),
        architecture.input_size,
        name=path.stem,
        metric="cosine",
        thresholds=architecture.thresholds,
        thresholds_source=architecture.thresholds_source,
        embedding_mean=None if mean is None else to_float32({MEAN: mean}, path)[MEAN],
        template=architecture.template,
        colour_order=architecture.colour_order,
        value_range=architecture.value_range,
        source=f"{architecture.name} in {path.name}" + (f" ({architecture.source})" if architecture.source else ""),
        licence=architecture.licence,
    )


def _packaged(name: str) -> FRSurrogate:
    return _from_file(WEIGHTS / f"{name}.safetensors")


BUILT_IN_SURROGATES: dict[str, Callable[[], FRSurrogate]] = {"dlib_resnet": load_dlib_resnet}
BUILT_IN_SURROGATES |= {name: partial(_packaged, name) for name in ("mobilefacenet", "faceres", "mobileface")}


def _recognise(tensors: Mapping[str, Tensor], path: Path) -> Architecture:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    known = filter(None, (recognise(shapes) for recognise in ARCHITECTURES))
    shown = ", ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:SHOWN])
    more = ", ..." if len(shapes) > SHOWN else ""
    return given(
        next(known, None),
        f"{path.name} is no recogniser of a known kind: {len(shapes)} tensors, {shown}{more}",
        f"choose a file of one of these networks: {SUPPORTED}",
    )


def _network(architecture: Architecture, tensors: Mapping[str, Tensor], path: Path) -> torch.nn.Module:
    """The network with the file's weights, frozen; built without memory, so that nothing is drawn at random first."""
    with torch.inference_mode(False):
        with torch.device("meta"):
            module = architecture.build()
        expected = module.state_dict()
        _require_same_tensors(architecture, expected, tensors, path)
        counters = {name for name in expected if name.endswith(STEP_COUNTER)}
        weights = to_float32({name: tensors[name] for name in expected if name not in counters}, path)
        weights = {name: _channels_last(weight) for name, weight in weights.items()}
        module.load_state_dict(weights | {name: torch.tensor(0) for name in counters}, assign=True)
        return module.eval().requires_grad_(False)


def _channels_last(weight: Tensor) -> Tensor:
    """A convolution's weights in the layout with which CPUs are a tenth faster; the same numbers."""
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


def _require_same_tensors(
    architecture: Architecture, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path
) -> None:
    """Every tensor of the network is in the file in its shape, and nothing else but what is not needed."""
    wanted = {name: list(tensor.shape) for name, tensor in expected.items() if not name.endswith(STEP_COUNTER)}
    found = {name: list(tensor.shape) for name, tensor in tensors.items() if not name.endswith(STEP_COUNTER)}
    lacking = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted and not name.startswith(architecture.ignored)]
    misshapen = [
        f"{name} {found[name]} instead of {shape}" for name, shape in wanted.items() if found.get(name, shape) != shape
    ]
    kinds = (("lacks", lacking), ("has besides", extra), ("has in another shape", misshapen))
    differences = [f"{what} {first_of(names, SHOWN)}" for what, names in kinds if names]
    require(
        not differences,
        f"{path.name} looks like {architecture.name} ({len(wanted)} tensors), but {'; '.join(differences)}",
        "use the weights as they were published; a changed or cut network is another network",
    )


def _with_threshold(surrogate: FRSurrogate, threshold: float) -> FRSurrogate:
    low, high = METRICS[surrogate.metric].lowest, METRICS[surrogate.metric].highest
    require(
        low < threshold < high,
        f"load_surrogate: a threshold of {threshold} for {surrogate.name}, whose metric is {surrogate.metric}",
        f"use a number between {low:g} and {high:g}, or none for the network's own",
    )
    chosen = f"the default {threshold:g} is the user's own"
    others = f"; those at false accept rates: {surrogate.thresholds_source}" if surrogate.thresholds else ""
    return replace(surrogate, default_threshold=threshold, thresholds_source=chosen + others)


__all__ = ["ARCHITECTURES", "BUILT_IN_SURROGATES", "WEIGHTS_SUFFIXES", "FRSurrogate", "load_surrogate"]
