"""The benchmark compares the same result at the work it claims: the release's formulation against the core's."""

import json

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.measure import measure
from benchmarks.models import MODELS, Shape, build, smooth_noise, surrogate, vae_of
from benchmarks.report import computed, table
from benchmarks.ways import WAYS, prepare

TINY = Shape(
    {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
    },
    vae_of(8, 8, 8, 8, layers_per_block=1, norm_num_groups=4),
    ("small",),
)


@pytest.fixture(scope="module")
def tiny():
    """Both ways at the published iterations, in float64."""
    setup = build(TINY, 64, dtype=torch.float64)
    ways = {name: prepare(WAYS[name], setup) for name in ("release", "exact")}
    return {
        name: measure(lambda on_step, way=way: way(20, 35, on_step), way.unet, way.vae, "cpu")
        for name, way in ways.items()
    }


def test_the_release_and_the_core_have_one_result(tiny):
    released, exact = tiny["release"].result, tiny["exact"].result
    for name in ("latent", "decoded_latent", "image"):
        torch.testing.assert_close(getattr(released, name), getattr(exact, name), rtol=0, atol=1e-6)
    start = prepare(WAYS["exact"], build(TINY, 64, dtype=torch.float64))(20, 1).latent
    assert (exact.latent - start).abs().max() > 0.1, "35 iterations of AdamW at 0.01 go further than one"


def test_the_passes_at_the_published_iterations(tiny):
    """Release: 19 to invert, 3 * 20 and 3 to learn, 35 * 3 * 4 to attack, 3 * 4 at the end."""
    counts = {name: (one.unet.forward, one.unet.backward, one.decodes) for name, one in tiny.items()}
    assert counts == {"release": (514, 480, 71), "exact": (176, 165, 36)}


def test_the_computed_seconds_are_those_of_all_published_iterations():
    """rest + 60 * null-text + 35 * latent: 1 + 6 + 70 against 1 + 6 + 7."""
    row = {"rest_seconds": 1.0, "null_text_seconds": 0.1}
    rows = [row | {"way": "release", "latent_seconds": 2.0}, row | {"way": "exact", "latent_seconds": 0.2}]
    text = computed({"model": "reduced", "size": 64, "rows": rows})
    assert "release 77.0 s; exact 14.0 s, 5.50 times faster (computed" in text


def test_a_measurement_leaves_no_hook_and_sees_the_memory_of_its_run():
    setup = build(TINY, 64)
    way = prepare(WAYS["exact"], setup)

    def hungry(on_step):
        torch.ones(2**26)  # 268 MB
        return way(1, 1, on_step)

    small = measure(lambda on_step: way(1, 1, on_step), way.unet, way.vae, "cpu")
    large = measure(hungry, way.unet, way.vae, "cpu")
    assert not setup.unet._forward_hooks and not setup.vae.decoder._forward_hooks
    if small.peak is not None:
        assert large.peak - small.peak > 100e6


def test_a_way_that_prepares_its_networks_leaves_the_others_theirs():
    setup = build(TINY, 64)
    assert prepare(WAYS["bfloat16"], setup).unet.dtype == torch.bfloat16
    assert setup.unet.dtype == torch.float32 and prepare(WAYS["exact"], setup).unet is setup.unet


@pytest.mark.parametrize("name", ["mobile_face", "facenet"])
def test_random_surrogates_tell_photos_apart(name):
    network = surrogate(name)
    a, b = (network.embed(smooth_noise(1, 128, seed)) for seed in (3, 4))
    assert a.isfinite().all() and a.shape == (1, 512)
    assert network.cosine(a, b).abs() < 0.95


def test_the_models_have_the_parameters_of_stable_diffusion():
    """On the meta device, where they cost nothing. 859.5 and 865.9 million in the published U-Nets, 83.7 in the VAE."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    def millions(network):
        return round(sum(weight.numel() for weight in network.parameters()) / 1e6, 1)

    with torch.device("meta"):
        unets = {name: millions(UNet2DConditionModel(**MODELS[name].unet)) for name in ("sd15", "sd2")}
        assert unets == {"sd15": 859.5, "sd2": 865.9}
        assert millions(AutoencoderKL(**MODELS["sd2"].vae)) == 83.7


def test_the_command_finds_one_image_in_less_time(tmp_path, capsys):
    """Interleaved, the faster of two runs each. Few iterations: AdamW makes much of float32's rounding."""
    few = ["--null-text-iterations", "1", "--iterations", "2"]
    main(["--size", "128", *few, "--repeat", "2", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "(computed from the seconds of each stage, not measured)" in printed
    run = json.loads((tmp_path / "reduced-128-cpu.json").read_text())
    released, exact = run["rows"]
    assert exact["largest_difference"] < 1e-4
    assert min(released["seconds"]) / min(exact["seconds"]) > 1.5
    assert (released["unet"], exact["unet"]) == ({"forward": 61, "backward": 27}, {"forward": 20, "backward": 9})
    if exact["peak"] is not None:
        assert exact["peak"] < released["peak"]
    assert (tmp_path / "plot.png").stat().st_size > 0

    (tmp_path / "plot.png").unlink()
    main(["--table", str(tmp_path)])
    assert table([run]) in capsys.readouterr().out and table([run]) in printed
    assert (tmp_path / "plot.png").exists()


def test_an_earlier_run_is_not_overwritten_and_too_little_memory_is_a_row(tmp_path, capsys, monkeypatch):
    def too_large(*args, **kwargs):
        raise torch.OutOfMemoryError

    few = ["--size", "64", "--null-text-iterations", "1", "--iterations", "1", "--no-warm-up", "--out", str(tmp_path)]
    main([*few, "--ways", "exact"])
    first = (tmp_path / "reduced-64-cpu.json").read_text()
    monkeypatch.setattr("benchmarks.ways.protect_as_released", too_large)
    main([*few, "--ways", "release", "exact"])
    assert (tmp_path / "reduced-64-cpu.json").read_text() == first
    rows = json.loads((tmp_path / "reduced-64-cpu-2.json").read_text())["rows"]
    assert rows[0]["error"] == "out of memory" and "seconds" in rows[1] and "largest_difference" not in rows[1]
    assert "release | float32 | out of memory | -" in capsys.readouterr().out
