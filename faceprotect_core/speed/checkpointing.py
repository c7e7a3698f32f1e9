"""Less memory for more time: what a block of a network computed is computed again in the backward pass."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..protocols import SelfAttention
from ..replaced import replaced

Attending = Callable[[SelfAttention | None], AbstractContextManager]
# The blocks of Stable Diffusion's U-Net and autoencoder, by the names of their classes.
BLOCKS = {
    *("ResnetBlock2D", "BasicTransformerBlock"),  # in diffusers
    *("ResBlock", "BasicTransformerBlock", "ResnetBlock", "AttnBlock"),  # in ComfyUI
    "Block",  # TAESD, in ComfyUI
}


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The residual and attention blocks, none inside another."""
    return [module for module in network.modules() if type(module).__name__ in BLOCKS]


@contextmanager
def recomputed(
    blocks: Iterable[nn.Module], around: Callable[[], AbstractContextManager] = nullcontext
) -> Iterator[None]:
    """Within it, a block's forward pass keeps the block's inputs alone for the backward pass (gradient checkpointing).

    The results are the same. The backward pass may come later, when the blocks are as they were before.
    Dictionaries among a block's arguments are copied when it is called: who calls it may go on writing into them, as
    ComfyUI does, and the block is computed again with what they held.

    Args:
        blocks: as of `blocks_of`.
        around: what must be in force while a block is computed again; called with every block.
    """
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(replaced(block, "forward", _keeping_inputs_alone(block.forward, around)))
        yield


def recomputed_attending(
    network: nn.Module, attending: Attending, self_attention: SelfAttention | None
) -> AbstractContextManager[None]:
    """`recomputed` for a U-Net whose self-attention is computed by self_attention within attending(self_attention).

    The blocks keep copies of self_attention and not itself: it holds the loss, thereby the graph, thereby the blocks,
    and such a circle through autograd is never freed where the backward pass does not come.
    """
    untouched = copy.copy(self_attention)
    return recomputed(blocks_of(network), around=lambda: attending(copy.copy(untouched)))


def _keeping_inputs_alone(forward: Callable, around: Callable[[], AbstractContextManager]) -> Callable:
    def call(*args, **kwargs):
        args = [_as_it_is(argument) for argument in args]
        kwargs = {name: _as_it_is(argument) for name, argument in kwargs.items()}
        contexts = {"context_fn": lambda: (nullcontext(), around())}
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **contexts, **kwargs)

    return call


def _as_it_is(argument):
    return dict(argument) if isinstance(argument, dict) else argument
