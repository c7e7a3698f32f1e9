"""The text encoders of one checkpoint: what ComfyUI's CLIPTextEncode gives, and our reading of the file."""

import pytest
import torch
from safetensors.torch import load_file

from checkpoints import SD1, VEGA, write_checkpoint
from comfyui_models import core_module

TEXT = "a portrait, soft light"
FAMILIES = {"SD 1.x": SD1, "SDXL": VEGA}


@pytest.fixture(scope="module", params=FAMILIES)
def file(pack, request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return folder / "checkpoints" / write_checkpoint(folder, FAMILIES[request.param])


@pytest.fixture(scope="module")
def clip(file):
    """As CheckpointLoaderSimple gives it."""
    import folder_paths

    import nodes

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(file.parent)], {".safetensors"}))
        return nodes.CheckpointLoaderSimple().load_checkpoint(file.name)[1]


def by_comfyui(clip, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The context and the pooled vector of CLIPTextEncode."""
    import nodes

    with torch.inference_mode():
        (((context, besides),),) = nodes.CLIPTextEncode().encode(clip, text)
    return context, besides["pooled_output"]


def tokens_of(clip, text: str) -> list[torch.Tensor]:
    """[1, tokens] of each encoder, by ComfyUI's tokenizers."""
    found = clip.tokenize(text)
    return [torch.tensor([[token for token, _ in found[name][0]]]) for name in ("l", "g") if name in found]


def assert_equal(ours, pooled, expected) -> None:
    """To 1e-5 of the largest number; only SDXL is given the pooled vector."""
    assert ours.dtype == torch.float32
    for mine, other in zip((ours, pooled), expected, strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-5 * other.abs().max().item())


@pytest.mark.slow
def test_both_see_the_empty_prompt_and_a_text_alike(pack, file, clip):
    """The empty prompt as the command loads it (`--model FILE`); the text with ComfyUI's tokens."""
    loaded = core_module(pack, "models").load_model(str(file))
    empty, text = by_comfyui(clip, ""), by_comfyui(clip, TEXT)
    assert_equal(loaded.context, loaded.denoiser.pooled, empty)
    assert (loaded.denoiser.pooled is None) == ("sd1" in file.name)

    encoders = core_module(pack, "diffusers_backend.single_file").text_encoders_of(load_file(file))
    encode = core_module(pack, "diffusers_backend.prompt").encode_prompt
    assert_equal(*encode(encoders, tokens_of(clip, TEXT)), text)
    assert (text[0] - empty[0]).abs().max() > 0.1 and (text[1] - empty[1]).abs().max() > 0.1
