"""Equal to the published release: every intermediate of the recorded runs, in float64."""

import pytest
import torch

from faceprotect_core import capture_self_attention, ddim_invert, learn_null_text, optimize_latent
from golden import RECORDS, load_golden

TOLERANCE = dict(rtol=0.0, atol=1e-6)


def close(actual, expected):
    torch.testing.assert_close(torch.as_tensor(actual, dtype=torch.float64), expected, **TOLERANCE)


@pytest.mark.parametrize("name", RECORDS)
def test_every_intermediate_agrees_with_the_published_release(name):
    golden = load_golden(name)
    record, settings = golden.record, golden.settings

    trajectory = ddim_invert(golden.denoiser, golden.latent, golden.context, golden.schedule)
    for index, latent in enumerate(trajectory.latents):
        close(latent, record[f"inversion.{index:02d}"])

    losses = []
    embeddings = learn_null_text(
        golden.denoiser,
        trajectory,
        golden.context,
        iterations=settings["null_text_iterations"],
        on_step=lambda event: losses.extend(event.losses["null_text"]),
    )
    close(losses, record["null_loss"])
    for step in range(3):
        close(embeddings[step], record[f"null_text.{step}"])

    structure = capture_self_attention(golden.denoiser, trajectory, embeddings)
    images = []
    result = optimize_latent(
        golden.denoiser,
        golden.codec,
        trajectory,
        embeddings,
        golden.objective(),
        structure=structure,
        iterations=settings["protection_iterations"],
        on_step=lambda event: images.append(event.image),
    )
    close([x for (x,) in result.history["identity"]], record["adv_loss"])
    close([x for (x,) in result.history["structure"]], record["attn_loss"])
    close(structure.latent[0], record["final_latents"][0])
    close(result.decoded_latent[0], record["final_latents"][1])
    close(golden.codec.decode(result.decoded_latent) * 2 - 1, record["final_image"])
    assert torch.equal(result.image, golden.codec.decode(result.decoded_latent).clamp(0, 1))
    assert len(images) == settings["protection_iterations"]
