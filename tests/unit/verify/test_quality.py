"""PSNR, SSIM and CIEDE2000 against skimage, the others against their libraries; nothing is ever downloaded."""

import socket
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from faceprotect_core import ProtectionError
from faceprotect_core.verify import quality
from faceprotect_core.verify.quality import (
    FID_WEIGHTS,
    LPIPS_WEIGHTS,
    Lpips,
    ciede2000,
    frechet_distance,
    ms_ssim,
    psnr,
    ssim,
)
from needs import missing
from tiny import random_image

PHOTO = random_image(3, 64, dtype=torch.float32)


def noisy(image, deviation=0.05, seed=0):
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + deviation * noise).clamp(0, 1)


def numpy_of(image):
    return image.permute(1, 2, 0).double().numpy()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever tries to fetch something fails."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was used: {args}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# ------------------------------------------------------------------------------------------------ PSNR, SSIM


def test_psnr_is_that_of_skimage():
    changed = noisy(PHOTO)
    expected = [
        peak_signal_noise_ratio(numpy_of(a), numpy_of(b), data_range=1) for a, b in zip(PHOTO, changed, strict=True)
    ]
    assert psnr(PHOTO, changed).tolist() == pytest.approx(expected, abs=1e-9)


def test_psnr_of_a_known_change():
    """A tenth of the range everywhere is 20 dB; equal images have no finite one."""
    grey = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    assert psnr(grey, grey + 0.1).item() == pytest.approx(20)
    assert psnr(grey, grey).item() == float("inf")


def test_psnr_in_a_mask_counts_only_what_is_inside():
    changed = PHOTO.clone()
    changed[:, :, :32] = noisy(PHOTO)[:, :, :32]
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, :32] = 0.3
    expected = psnr(PHOTO[:, :, :32], changed[:, :, :32])
    torch.testing.assert_close(psnr(PHOTO, changed, mask), expected)
    assert (psnr(PHOTO, changed) > expected + 3).all()


@pytest.mark.parametrize("borders", ["valid", "reflect"])
def test_ssim_is_that_of_skimage_with_a_gaussian_window(borders):
    """skimage counts the pixels whose window lies in the image: with a reflected border of 5 these are all."""
    changed = noisy(PHOTO)
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=-1)
    around = 0 if borders == "valid" else 5
    pairs = (F.pad(image, (around,) * 4, "reflect") for image in (PHOTO, changed))
    expected = [structural_similarity(numpy_of(a), numpy_of(b), **options) for a, b in zip(*pairs, strict=True)]
    assert ssim(PHOTO, changed, borders).tolist() == pytest.approx(expected, abs=1e-6)
    assert ssim(PHOTO, PHOTO, borders).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_images_that_do_not_fit_together_are_refused(measure):
    with pytest.raises(ProtectionError, match="same size"):
        measure(PHOTO, PHOTO[..., :32])
    with pytest.raises(ProtectionError, match="NaN"):
        measure(PHOTO, torch.full_like(PHOTO, float("nan")))


def test_ssim_refuses_an_image_smaller_than_its_window():
    with pytest.raises(ProtectionError, match="window is 11"):
        ssim(PHOTO[..., :10, :10], PHOTO[..., :10, :10])


# ------------------------------------------------------------------------------------------------ MS-SSIM, CIEDE2000


@pytest.mark.parametrize("deviation", [0.02, 0.3])
@pytest.mark.parametrize("size", [(176, 176), (192, 256)])
def test_ms_ssim_is_made_of_the_parts_of_torchmetrics(size, deviation):
    """Its whole has borders of its own on the coarsest scale. Sides that are never odd: it drops the last pixel."""
    require_packages("torchmetrics")
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as whole
    from torchmetrics.functional.image.ssim import _ssim_update as parts

    photo = F.interpolate(PHOTO, size, mode="bicubic").clamp(0, 1).double()
    changed = noisy(photo, deviation)
    expected, (x, y) = 1.0, (photo, changed)
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        expected *= parts(x, y, data_range=1.0, return_contrast_sensitivity=True)[1] ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    every_pixel = parts(x, y, data_range=1.0, return_full_image=True)[1]
    expected *= every_pixel[..., 5:-5, 5:-5].flatten(1).mean(1) ** 0.1333
    torch.testing.assert_close(ms_ssim(photo, changed), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(expected, whole(changed, photo, reduction="none", data_range=1.0), rtol=0, atol=2e-3)
    assert (expected < 0.999).all()


def test_ms_ssim_of_equal_images_is_1_of_inverted_ones_0_and_it_takes_what_holds_the_window():
    photo = F.interpolate(PHOTO, (161, 175), mode="bicubic").clamp(0, 1)
    assert ms_ssim(photo, photo).tolist() == pytest.approx([1, 1, 1], abs=1e-12)
    assert ms_ssim(photo, 1 - photo).tolist() == [0, 0, 0]
    assert (ms_ssim(photo, noisy(photo, 0.02)) > ms_ssim(photo, noisy(photo, 0.1))).all()
    with pytest.raises(ProtectionError, match="at least 161 are needed"):
        ms_ssim(photo[..., :160], photo[..., :160])


def test_ciede2000_is_that_of_skimage_over_the_image_and_over_a_mask(monkeypatch):
    monkeypatch.setattr(quality, "COLOURS_AT_ONCE", 1000)  # several parts, the last one smaller
    changed = noisy(PHOTO)
    lab = [rgb2lab(image.permute(0, 2, 3, 1).double().numpy()) for image in (PHOTO, changed)]
    differences = deltaE_ciede2000(*lab)
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, 10:40, 5:50] = 0.3
    for given, part in ((None, differences), (mask, differences[:, 10:40, 5:50])):
        mean, worst = ciede2000(PHOTO, changed, given)
        assert mean.tolist() == pytest.approx(part.mean((1, 2)), abs=1e-4)
        assert worst.tolist() == pytest.approx(np.percentile(part, 95, axis=(1, 2)), abs=1e-4)


def test_ciede2000_of_greys_is_their_difference_of_lightness():
    """Sharma, Wu, Dalal (2005), equation 15: at a lightness near 50 nothing weighs it."""
    grey = torch.full((1, 3, 8, 8), 0.45)
    lightness = 116 * (((torch.tensor([0.45, 0.49]) + 0.055) / 1.055) ** 2.4) ** (1 / 3) - 16
    mean, worst = ciede2000(grey, grey + 0.04)
    assert mean.item() == pytest.approx((lightness[1] - lightness[0]).item(), rel=0.01)
    assert worst.item() == pytest.approx(mean.item(), rel=1e-6)


def test_ciede2000_of_equal_images_is_0_and_in_an_empty_mask_nothing():
    assert [one.tolist() for one in ciede2000(PHOTO, PHOTO)] == [[0, 0, 0], [0, 0, 0]]
    assert all(one.isnan().all() for one in ciede2000(PHOTO, noisy(PHOTO), torch.zeros(1, 1, 64, 64)))


# ------------------------------------------------------------------------------------------------ LPIPS


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Files in the form of torchvision's, with random numbers in them."""
    require_packages("torchmetrics", "torchvision")
    from torchvision import models

    folder = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    files = {"alex": folder / "alexnet-owt-7be5be79.pth", "vgg": folder / "vgg16-397923af.pth"}
    for name, make in (("alex", models.alexnet), ("vgg", models.vgg16)):
        # The layers before the classifier, which is most of the file and never used.
        features = {k: v for k, v in make(weights=None).state_dict().items() if k.startswith("features.")}
        torch.save(features | {"classifier.6.bias": torch.zeros(1000)}, files[name])
    return files


def require_packages(*names: str) -> None:
    for name in names:
        if find_spec(name) is None:
            missing(f"the Python package {name} is not installed")


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_lpips_is_that_of_torchmetrics_with_the_same_weights(backbones, network, monkeypatch):
    import torchmetrics.functional.image.lpips as theirs
    import torchvision

    changed = noisy(PHOTO, 0.1)
    found = Lpips(backbones[network], network)(PHOTO, changed)

    # Their own way: torchvision is asked for a pretrained network. It gets it from the file.
    name = {"alex": "alexnet", "vgg": "vgg16"}[network]
    original = getattr(torchvision.models, name)

    def pretrained(weights):
        assert weights is not None
        model = original(weights=None)
        model.load_state_dict(torch.load(backbones[network], weights_only=True), strict=False)
        return model

    monkeypatch.setattr(torchvision.models, name, pretrained)
    expected = theirs.learned_perceptual_image_patch_similarity(PHOTO, changed, net_type=network, normalize=True)
    torch.testing.assert_close(found.mean(), expected, rtol=1e-4, atol=1e-7)
    assert (found > 0).all()


def test_lpips_of_equal_images_is_0_and_grows_with_the_change(backbones):
    lpips = Lpips(backbones["alex"])
    assert lpips(PHOTO, PHOTO).tolist() == [0, 0, 0]
    assert (lpips(PHOTO, noisy(PHOTO, 0.1)) > lpips(PHOTO, noisy(PHOTO, 0.02))).all()


def test_lpips_refuses_the_weights_of_another_network(backbones):
    with pytest.raises(ProtectionError, match="another network"):
        Lpips(backbones["vgg"], "alex")
    with pytest.raises(ProtectionError, match="use one of alex, vgg"):
        Lpips(backbones["vgg"], "squeeze")


def test_lpips_refuses_images_that_its_network_cannot_see(backbones):
    small = random_image(1, 16, dtype=torch.float32)
    with pytest.raises(ProtectionError, match="at least 32"):
        Lpips(backbones["alex"])(small, small)


# ------------------------------------------------------------------------------------------------ FID


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A file in the form of torch-fidelity's, with random numbers that keep signals from dying out."""
    require_packages("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

    file = tmp_path_factory.mktemp("fid") / "weights-inception-2015-12-05-6726825d.pth"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "load_state_dict", lambda *args, **kwargs: None)
        patch.setattr(torch, "load", lambda *args, **kwargs: None)
        network = Network("random", ["2048"], feature_extractor_weights_path="none")
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), file)
    return file, network


def reference_fid(network, a, b):
    """From the features, and through the few images instead of the 2048 x 2048 covariances: the trace of the square
    root of their product is the nuclear norm of the product of the centred features."""
    with torch.no_grad():
        x, y = (network(image.mul(255).round().byte())[0].double() for image in (a, b))
    mean = (x.mean(0) - y.mean(0)).square().sum()
    x, y = ((one - one.mean(0)) / (len(one) - 1) ** 0.5 for one in (x, y))
    return (mean + x.square().sum() + y.square().sum() - 2 * torch.linalg.matrix_norm(x @ y.T, "nuc")).item()


def test_fid_is_the_distance_of_the_features_and_0_for_equal_sets(inception):
    file, network = inception
    changed = noisy(PHOTO, 0.2)
    scale = reference_fid(network, PHOTO, changed)
    assert scale > 0
    assert frechet_distance(PHOTO, changed, file) == pytest.approx(scale, rel=1e-2)
    assert frechet_distance(PHOTO, list(PHOTO), file) == pytest.approx(0, abs=1e-3 * scale)


def test_fid_refuses_another_network_and_a_single_image(inception, backbones):
    with pytest.raises(ProtectionError, match="another network"):
        frechet_distance(PHOTO, PHOTO, backbones["alex"])
    with pytest.raises(ProtectionError, match="give two at least"):
        frechet_distance(PHOTO[:1], PHOTO, inception[0])


# ------------------------------------------------------------------------------------------------ what is missing


@pytest.mark.parametrize(
    ("measure", "address"),
    [
        (lambda path: Lpips(path), LPIPS_WEIGHTS["alex"]),
        (lambda path: Lpips(path, "vgg"), LPIPS_WEIGHTS["vgg"]),
        (lambda path: frechet_distance(PHOTO, PHOTO, path), FID_WEIGHTS),
    ],
    ids=["alex", "vgg", "fid"],
)
def test_without_the_weights_the_error_says_from_where_to_get_them(measure, address, tmp_path):
    with pytest.raises(ProtectionError) as error:
        measure(tmp_path / "weights.pth")
    assert address in str(error.value) and str(tmp_path / "weights.pth") in str(error.value)


class RunsCode:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("measure", [Lpips, lambda path: frechet_distance(PHOTO, PHOTO, path)], ids=["lpips", "fid"])
def test_a_weights_file_that_wants_to_run_code_is_refused_and_not_run(measure, tmp_path, capsys):
    torch.save({"a": RunsCode()}, tmp_path / "weights.pth")
    with pytest.raises(ProtectionError, match="wants to run code"):
        measure(tmp_path / "weights.pth")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("measure", [Lpips, lambda path: frechet_distance(PHOTO, PHOTO, path)], ids=["lpips", "fid"])
def test_weights_with_nan_are_refused(measure, tmp_path):
    torch.save({"features.0.weight": torch.tensor([float("nan"), 1.0])}, tmp_path / "weights.pth")
    with pytest.raises(ProtectionError, match="NaN"):
        measure(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("package", "measure", "says"),
    [
        ("torchmetrics", Lpips, "pip install .*torchmetrics"),
        ("torch_fidelity", lambda path: frechet_distance(PHOTO, PHOTO, path), "pip install torch-fidelity"),
    ],
    ids=["lpips", "fid"],
)
def test_without_the_package_the_error_says_how_to_install_it(package, measure, says, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ProtectionError, match=says):
        measure(tmp_path / "weights.pth")


def test_no_image_is_changed_by_being_measured(backbones):
    before, changed = PHOTO.clone(), noisy(PHOTO)
    for measure in (psnr, ssim, Lpips(backbones["alex"])):
        measure(PHOTO, changed)
    assert torch.equal(PHOTO, before) and np.isfinite(changed.numpy()).all()
