"""A prompt, as the text encoders of Stable Diffusion 1.x, 2.x and SDXL see it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def encode_prompt(encoders: Sequence[nn.Module], tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """The embedding [1, tokens, dim], and of SDXL, which has two encoders, the pooled output [1, dim].

    encoders: transformers' CLIPTextModel, of SDXL its CLIPTextModelWithProjection too. tokens: of each, [1, tokens].
    """
    if len(encoders) == 1:
        return encoders[0](tokens[0])[0].float(), None
    seen = [encoder(ids, output_hidden_states=True) for encoder, ids in zip(encoders, tokens, strict=True)]
    context = torch.cat([one.hidden_states[-2] for one in seen], -1)  # SDXL takes the last layer but one of both
    return context.float(), seen[1].text_embeds.float()
