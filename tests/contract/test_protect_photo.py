"""Protect Photo on a batch of photos: their faces together as one after the other, progress, and what ends the run."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch

from comfyui_models import core_module

# The graph, in which nothing lies before the node.
ALONE = SimpleNamespace(get_node=lambda _: {"inputs": {}}, has_node=lambda _: False)
EMPTY = torch.full((1, 300, 320, 3), 0.5)


@pytest.fixture(scope="module")
def portrait():
    """IMAGE of NASA's Eileen Collins."""
    return torch.from_numpy(skimage.data.astronaut())[None, :300, 80:400].float() / 255


@pytest.fixture(scope="module")
def photos(portrait):
    """With one face each, but for the second."""
    return torch.cat([portrait, EMPTY, portrait.flip(2) * 0.8, portrait * 0.6])


@pytest.fixture
def node(pack, monkeypatch):
    """run(photos, faces at once, what on failure) -> (image, mask, report), what the node said, the bar's positions."""
    photo, host = pack.nodes.photo, pack.host
    settings = replace(photo.PRESETS[photo.DIFFUSION]["fast"], tries=1, margin=1.0).tuned(
        null_text_iterations=1, iterations=2, lr=0.02, fidelity_weight=0.0, objective_weight=0.01
    )
    monkeypatch.setitem(photo.PRESETS[photo.DIFFUSION], "fast", settings)
    # Two iterations protect nobody; what is told apart here is which photos fail, and why.
    monkeypatch.setattr(photo, "_require_protected", lambda *_: None)
    monkeypatch.setattr(photo.ProtectPhoto, "hidden", SimpleNamespace(unique_id="7", dynprompt=ALONE), raising=False)

    def run(photos, at_once: int, on_failure: str):
        said, bar, time = [], [], iter(range(1, 10_000, 2))
        for place in (host, host.progress):
            monkeypatch.setattr(place, "show_on_node", lambda node_id, text: said.append(text))
        monkeypatch.setattr(host.Progress, "__call__", lambda _, event, caption="": bar.append(event.step))
        monkeypatch.setattr(host.progress, "time", SimpleNamespace(monotonic=lambda: next(time)))
        with torch.inference_mode():
            model, vae, prompt = pack.nodes.demo.LoadDemoModel.execute().result
            settings = {"precision": "as loaded", "memory": "automatic", "faces_at_once": at_once}
            model, vae = pack.nodes.performance.Performance.execute(model, vae, **settings).result
            models = {"model": model, "vae": vae, "conditioning": prompt}
            output = photo.ProtectPhoto.execute(
                photos, "fast", "automatic", "dlib_resnet", "synthetic", 128, "all", "0", on_failure, **models
            )
        return output.result[:3], said, bar

    return run


def test_the_faces_of_a_batch_of_photos_come_out_together_as_one_after_the_other(node, photos):
    (alone, *_), single, _ = node(photos, 0, "leave out")
    (together, mask, report), said, bar = node(photos, 2, "leave out")
    assert alone.shape == together.shape == (3, 300, 320, 3)
    outside = mask == 0
    assert torch.equal(together[outside], photos[[0, 2, 3]][outside])
    torch.testing.assert_close(together, alone, rtol=0, atol=5e-4)  # 3e-5 was measured
    assert (together - photos[[0, 2, 3]]).abs().amax((1, 2, 3)).min() > 0.02
    for number in (1, 3, 4):
        assert f"Photo {number}: NOT PROTECTED, 1 of 1 face." in report
    assert "Photo 2: NOT PROTECTED, left out. No face found" in report
    assert bar == sorted(bar) and bar[-1] == 1000
    texts = [text.split(": ")[0] for text in said]
    assert set(texts) >= {"photos 1 to 2 of 4", "photos 1 to 2 of 4, faces 1 to 2 of 2", "photo 4 of 4, face 1 of 1"}
    assert {text.split(": ")[0] for text in single} >= {"photo 1 of 4", "photo 1 of 4, face 1 of 1", "photo 3 of 4"}


def test_on_failure_stop_a_photo_without_a_face_ends_the_run(node, photos):
    with pytest.raises(ValueError, match="Protect Photo, image 2 of 4: no face found"):
        node(photos, 4, "stop")


@pytest.mark.parametrize("on_failure", ["stop", "leave out"])
def test_what_is_wrong_with_the_models_ends_the_run_whatever_is_chosen(node, photos, pack, monkeypatch, on_failure):
    def encode(*_):
        raise RuntimeError("the shapes do not match")

    monkeypatch.setattr(pack.host.ComfyCodec, "encode", encode)
    with pytest.raises(RuntimeError, match="the shapes do not match"):
        node(photos[:1], 1, on_failure)


@pytest.mark.parametrize("caption", ["face 1 of 1", "photos 12 to 15 of 200, faces 3 to 6 of 23: about 120 min left"])
def test_a_caption_stands_whole_below_the_preview(pack, caption):
    progress = pack.host.progress
    _, picture, _ = progress._preview(torch.ones(1, 3, 64, 64), caption)
    line = np.asarray(picture.convert("L"))[-progress.CAPTION :]
    assert line.shape == (progress.CAPTION, progress.PREVIEW_SIZE)
    assert line[:, :6].max() == line[:, -6:].max() == 0 and line.max() > 200


def test_a_preview_says_that_it_is_one_and_stands_still(pack, monkeypatch):
    progress, core = pack.host.progress, core_module(pack, "photos.words")
    shown = []
    monkeypatch.setattr(pack.host.Progress, "__call__", lambda _, event, caption="": shown.append((event, caption)))
    monkeypatch.setattr(progress, "show_on_node", lambda *_: None)
    report = pack.host.PhotoProgress(1, pack.nodes.photo.PRESETS[pack.nodes.photo.LIGHT]["balanced"], "7")
    step, preview = core_module(pack, "progress").Step, torch.zeros(1, 3, 8, 8)
    report(step("preview", 0, 1, image=preview))
    for number in (1, 2):
        report(step("protection", number, 2, image=torch.ones(1, 3, 8, 8)))
    assert len(shown) == 3 and all(event.image is preview for event, _ in shown)
    assert all(caption.startswith(core.PREVIEW) for _, caption in shown) and "instant (not judged)" in core.PREVIEW
    report(step("preview", 0, 1))  # there is none of the next face, which is not shown as the last one
    report(step("protection", 1, 2, image=torch.ones(1, 3, 8, 8)))
    assert [event.image is preview for event, _ in shown[3:]] == [False, False] and core.PREVIEW not in shown[-1][1]


def test_a_face_with_a_head_start_has_fewer_steps_and_one_without_has_all(pack, monkeypatch):
    monkeypatch.setattr(pack.host.Progress, "__call__", lambda *_: None)
    monkeypatch.setattr(pack.host.progress, "show_on_node", lambda *_: None)
    photo, step = pack.nodes.photo, core_module(pack, "progress").Step
    settings = photo.PRESETS[photo.DIFFUSION]["balanced"]
    begins, report = [], pack.host.PhotoProgress(1, settings, "7")
    for image in (torch.ones(1, 3, 8, 8), None):  # of one face, and of the next one, for which instant has failed
        report(step("preview", 0, 1, image=image))
        begins.append(report.stages["protection"][0])
        assert report.stages["protection"][1] == pytest.approx(1.0)
    passes = [settings.diffusion.null_text_iterations + 2 / 3, 2.5 * settings.diffusion.iterations]
    assert begins == pytest.approx([passes[0] / (passes[0] + share * passes[1]) for share in (0.5, 1.0)])


def test_in_the_end_the_finished_photo_is_shown_with_its_verdict_and_nothing_of_one_that_is_left_out(
    pack, portrait, monkeypatch
):
    shown, progress = [], pack.host.PhotoProgress(2, pack.nodes.photo.PRESETS[pack.nodes.photo.LIGHT]["fast"], "7")
    monkeypatch.setattr(pack.host.Progress, "__call__", lambda _, event, caption="": shown.append((event, caption)))
    core, image = core_module(pack, "photos.photo"), portrait[0].permute(2, 0, 1)
    (face,) = core.detect_faces(image)
    doubtful = core.FaceVerdict(replace(face, disagreement=1.0), True, ())
    progress.preview = torch.ones(1, 3, 8, 8)
    for outcome in (core.PhotoResult(image, image[:1], (), (doubtful,)), ValueError("no face found")):
        progress.finished += 1
        progress.ended(outcome)
    (done, said), (left_out, why) = shown
    assert torch.equal(done.image[0], image) and said == "Photo 1: Protected, 1 face. 1 of them DOUBTFUL."
    assert not left_out.image.any() and why == "Photo 2: NOT PROTECTED, left out." and progress.preview is None


@pytest.mark.parametrize("size", [(20, 30), (1200, 900), (2, 4000), (4000, 2)])
def test_a_picture_of_any_shape_stands_above_its_caption(pack, size):
    progress = pack.host.progress
    _, picture, _ = progress._preview(torch.full((1, 3, *size), 0.25), "Photo 1: Protected, 1 face.")
    height, width = (max(1, round(512 * side / max(size))) for side in size)
    assert picture.size == (512, height + progress.CAPTION)
    shown = np.asarray(picture)[:height] == 64
    assert shown.sum() == height * width * 3 and shown[:, (512 - width) // 2].all(), "whole, in the middle"
