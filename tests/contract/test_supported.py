"""Which MODELs are refused, with the reason and a model that works, and which are taken with a warning."""

import pytest
import torch
from safetensors.torch import save_file

from checkpoints import INPAINTING, PIX2PIX, PLAYGROUND, SD1, SDXL_INPAINTING, write_checkpoint
from comfyui_models import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def sd1(pack, folder):
    return load(folder / "checkpoints" / write_checkpoint(folder, SD1, text_encoder=False))[0]


def reason(pack, model) -> str:
    with pytest.raises(pack.core.checks.ProtectionError) as caught:
        pack.host.require_supported(model)
    assert "sd_xl_base_1.0" in str(caught.value).split("How to fix: ")[1]
    return str(caught.value)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        (INPAINTING, "9 input channels (inpainting"),
        (PIX2PIX, "8 input channels (pix2pix"),
        (SDXL_INPAINTING, "9 input channels (inpainting"),
        (PLAYGROUND, "made for another latent"),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_a_u_net_that_wants_more_or_another_latent_is_refused(pack, folder, family, said):
    model = load(folder / "checkpoints" / write_checkpoint(folder, family, text_encoder=False))[0]
    assert said in reason(pack, model)


def transformer(name: str, config: dict):
    """A MODEL of ComfyUI's class of that name, as small as its configuration says."""
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    kind = getattr(comfy.supported_models, name)(dict(config))
    kind.custom_operations = comfy.ops.disable_weight_init
    return comfy.model_patcher.ModelPatcher(kind.get_model({}, ""), torch.device("cpu"), torch.device("cpu"))


FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 8,
    "hidden_size": 32, "mlp_ratio": 1.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
SD3 = {
    "in_channels": 16, "patch_size": 2, "depth": 1, "input_size": None, "adm_in_channels": 8,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 8, "out_features": 64}},
    "num_patches": 4, "pos_embed_max_size": 2, "pos_embed_scaling_factor": None,
}  # fmt: skip


@pytest.mark.parametrize(("name", "config"), [("Flux", FLUX), ("SD3", SD3)], ids=["Flux", "SD 3"])
def test_a_transformer_is_refused_with_what_it_lacks(pack, name, config):
    said = reason(pack, transformer(name, config))
    assert f"the connected MODEL is {name}, which has neither a U-Net's self-attention layers nor noise levels" in said


@pytest.mark.parametrize("sampling", ["lcm", "x0", "img_to_img_flow"])
def test_another_sampling_than_noise_or_v_at_1000_levels_is_refused(pack, sd1, sampling):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    (model,) = ModelSamplingDiscrete().patch(sd1, sampling, False)
    assert "1000 noise levels" in reason(pack, model)


def test_edm_is_refused(pack, sd1):
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    (model,) = ModelSamplingContinuousEDM().patch(sd1, "v_prediction", 120.0, 0.002)
    assert "ModelSamplingContinuousEDM" in reason(pack, model)


@pytest.mark.parametrize("zsnr", [False, True])
@pytest.mark.parametrize("sampling", ["eps", "v_prediction"])
def test_noise_and_v_are_taken_also_with_zero_terminal_snr(pack, sd1, sampling, zsnr):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    (model,) = ModelSamplingDiscrete().patch(sd1, sampling, zsnr)
    pack.host.require_supported(model)
    assert (pack.host.schedule_of(model).alphas_cumprod[-1] < 1e-6) == zsnr


NAMES = {"sdxl_lightning_4step": "sounds like", "renamed": "has the title 'SDXL Turbo'", "sd_xl_base_1.0": ""}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_seems_to_be_distilled_is_warned_of(pack, sd1, tmp_path, name):
    """By the file of the loader; which signs there are: tests/unit/models/test_distilled.py."""
    file = tmp_path / f"{name}.safetensors"
    save_file({"x": torch.zeros(1)}, file, {"modelspec.title": "SDXL Turbo"} if name == "renamed" else None)
    model = sd1.clone()
    model.cached_patcher_init = (load, (str(file),))
    said = pack.host.warning_of(model)
    assert said.startswith(f"Warning: '{name}.safetensors' {NAMES[name]}") if NAMES[name] else said == ""
    assert str(tmp_path) not in said


def test_a_crop_has_the_size_that_fits_the_model(pack, folder, sd1):
    from checkpoints import VEGA

    sdxl = load(folder / "checkpoints" / write_checkpoint(folder, VEGA, text_encoder=False))[0]
    sizes = [pack.host.crop_size(0, model, "here") for model in (None, sd1, sdxl)]
    assert sizes == [256, 256, 768]
    assert pack.host.crop_size(512, sdxl, "here") == 512
    with pytest.raises(pack.core.checks.ProtectionError, match="here: the size is 32"):
        pack.host.crop_size(32, sdxl, "here")
