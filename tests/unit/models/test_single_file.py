"""Stable Diffusion from one .safetensors file: its text encoders, and what is refused. Its U-Net and autoencoder are
compared with ComfyUI's in tests/contract/test_sdxl_backends.py, the text encoders in test_text_encoders.py."""

import pytest
import torch
from safetensors.torch import save_file

from faceprotect_core.checks import ProtectionError
from faceprotect_core.diffusers_backend import load_single_file
from faceprotect_core.diffusers_backend.single_file import END, START, openclip_in_transformers_names, text_encoders_of
from faceprotect_core.models import load_model

WIDTH, VOCABULARY = 64, 49408


@pytest.fixture(scope="module")
def clip():
    """transformers' CLIPTextModelWithProjection with two random layers."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1, vocab_size=VOCABULARY,
        projection_dim=WIDTH, hidden_act="gelu", bos_token_id=START, eos_token_id=END,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config).eval()


def as_openclip(clip) -> dict:
    """The same network in OpenCLIP's names."""
    state = {key.removeprefix("text_model."): one for key, one in clip.state_dict().items()}
    found = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
    }
    for kind in ("weight", "bias"):
        found[f"ln_final.{kind}"] = state[f"final_layer_norm.{kind}"]
        for layer in range(2):
            old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            parts = [state[f"{old}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            found[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
            found[f"{new}.attn.out_proj.{kind}"] = state[f"{old}.self_attn.out_proj.{kind}"]
            for number in "12":
                found[f"{new}.ln_{number}.{kind}"] = state[f"{old}.layer_norm{number}.{kind}"]
                name = {"1": "c_fc", "2": "c_proj"}[number]
                found[f"{new}.mlp.{name}.{kind}"] = state[f"{old}.mlp.fc{number}.{kind}"]
    return found


def test_openclips_text_encoder_computes_the_same_under_the_names_of_transformers(clip):
    names = openclip_in_transformers_names(as_openclip(clip))
    state = {key.removeprefix("text_model."): one for key, one in clip.state_dict().items()}
    assert {key: one for key, one in state.items() if key not in names} == {}
    assert all(torch.equal(names[key], one) for key, one in state.items())


def test_sdxls_two_text_encoders_are_found_in_a_checkpoint(clip):
    first = {key.removeprefix("text_model."): one for key, one in clip.state_dict().items()}
    prefix = "conditioner.embedders."
    tensors = {f"{prefix}0.transformer.text_model.{key}": one for key, one in first.items() if "projection" not in key}
    tensors |= {f"{prefix}1.model.{key}": one for key, one in as_openclip(clip).items()}
    one, two = text_encoders_of(tensors)
    tokens = torch.tensor([[START, END, *[0] * 75]])
    with torch.no_grad():
        ours, expected = (net(tokens, output_hidden_states=True) for net in (two, clip))
    torch.testing.assert_close(ours.text_embeds, expected.text_embeds)
    torch.testing.assert_close(ours.hidden_states[-2], expected.hidden_states[-2])
    assert (one.config.hidden_act, two.config.hidden_act) == ("quick_gelu", "gelu")
    for encoder in (one, two):  # what is in no file, and so is not filled by one
        kept = {name.split(".")[-1]: buffer.tolist() for name, buffer in encoder.named_buffers()}
        assert kept == {"position_ids": [[*range(77)]]}


def text_of(width: int) -> dict:
    return {
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(8, width),
        "first_stage_model.x": torch.zeros(1),
    }


STRANGE = {
    "Stable Diffusion 2.x": (text_of(1024), "its text has .1024. channels.*which says whether it predicts noise or v"),
    "a refiner": (text_of(1280), "no checkpoint of Stable Diffusion 1.x or SDXL"),
    "a LoRA": ({"lora_unet_x": torch.zeros(1)}, "no checkpoint"),
    "without text encoders": (text_of(2048), "has no .'conditioner.embedders.1.model.'"),
    "EDM": (
        text_of(2048) | {"conditioner.embedders.1.model.x": torch.zeros(1), "edm_mean": torch.zeros(1)},
        "other noise levels",
    ),
    "no such networks": (
        text_of(2048) | {"conditioner.embedders.1.model.x": torch.zeros(1)}, "not as those of Stable Diffusion"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_another_file_is_refused_with_a_reason(tmp_path, name):
    tensors, said = STRANGE[name]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ProtectionError, match=said) as caught:
        load_single_file(tmp_path / "x.safetensors")
    assert "How to fix: " in str(caught.value) and str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("name", ["x.ckpt", "none.safetensors", "damaged.safetensors"])
def test_no_file_of_safetensors_is_refused(tmp_path, name):
    (tmp_path / "x.ckpt").write_bytes(b"x" * 100)
    (tmp_path / "damaged.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ProtectionError, match="is no .safetensors file|cannot be read"):
        load_model(str(tmp_path / name))
