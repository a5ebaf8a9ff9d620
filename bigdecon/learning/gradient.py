"""The gradient of a training step, in smaller pieces where memory does not suffice for all at once.

                        network f            loss
    patches, passes ──> activations ──> outputs ──> a number
                        most of the memory   one value a voxel

Each economy follows when the one before it has not been enough, and stays for the rest of the training:

1. the units of the network do not keep their activations; each is computed again on the way back
2. the passes go through the network one after the other; the loss is that of all outputs together, and its
   slope there is what each pass gets on the way back
3. fewer patches at a time, likewise

The first two change nothing but rounding, for passes are normalised apart in any case. With the third, batch
normalisation sees fewer patches at a time, and the result differs a little.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bigdecon.device_errors import device_in_words, is_out_of_memory, release_memory
from bigdecon.learning.ssi_network import DoubleConvolution
from bigdecon.learning.unet import PassNorm, ResidualUnit

__all__ = ["Gradient"]

logger = logging.getLogger(__name__)

Apply = Callable[[Tensor, int], Tensor]
"""Runs the network over so many passes, one after the other in the batch; float32 out."""


class _Economy(NamedTuple):
    """How a step is computed.

    Attributes
    ----------
    recompute : whether units compute their activations again on the way back
    patches : at a time, of one pass; None for all patches of all passes at once
    """

    recompute: bool
    patches: int | None


class Gradient:
    """Puts the gradient of a loss into the parameters of a network.

    Parameters
    ----------
    network : with its parameters on the device
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._norms = [module for module in network.modules() if isinstance(module, PassNorm)]
        self._economies = 0
        self._recomputing = False

    def compute(
        self, apply: Apply, inputs: Tensor, passes: int, loss_of_outputs: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Replace the parameters' gradients by those of a loss, and give the loss.

        Out of memory, it starts again with the next economy; only the last one's failure is raised.

        Parameters
        ----------
        apply : the network, in training mode
        inputs : (passes * batch, 1, [z,] y, x), all patches of one pass after those of the other
        passes : groups whose normalisation statistics stay apart; those of the last are kept
        loss_of_outputs : a number, from the network's output for all inputs
        """
        known = _economies(len(inputs) // passes, passes)
        while True:
            economy = known[min(self._economies, len(known) - 1)]
            before = self._statistics()
            try:
                return self._attempt(economy, apply, inputs, passes, loss_of_outputs)
            except Exception as error:
                if not is_out_of_memory(error) or self._economies >= len(known) - 1:
                    raise
            # Only here: the exception held on to what had been computed.
            self._network.zero_grad(set_to_none=True)
            release_memory()
            self._restore_statistics(before)
            self._economies += 1
            self._tell(known[self._economies], len(inputs) // passes, passes, inputs.device)

    def _attempt(
        self,
        economy: _Economy,
        apply: Apply,
        inputs: Tensor,
        passes: int,
        loss_of_outputs: Callable[[Tensor], Tensor],
    ) -> Tensor:
        if economy.recompute and not self._recomputing:
            _recompute_units(self._network)
            self._recomputing = True
        self._network.zero_grad(set_to_none=True)
        if economy.patches is None:
            loss = loss_of_outputs(apply(inputs, passes))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        groups = torch.split(
            inputs, economy.patches
        )  # never of two passes: their size divides that of a pass
        with torch.no_grad(), _momentum(self._norms, 0.0):
            outputs = torch.cat([apply(group, 1) for group in groups])
        outputs.requires_grad_()
        loss = loss_of_outputs(outputs)
        (slopes,) = torch.autograd.grad(loss, outputs)
        kept = len(groups) // passes  # the last pass's groups; together they count as one batch
        for number, (group, slope) in enumerate(
            zip(groups, torch.split(slopes, economy.patches), strict=True), kept - len(groups)
        ):
            with _momentum(self._norms, None if number >= 0 else 0.0, kept):
                output = apply(group, 1)
            output.backward(slope)  # type: ignore[no-untyped-call]
        return loss.detach()

    def _statistics(self) -> Tensor | None:
        """Copy the running statistics of normalisation, which a failed attempt may have changed."""
        buffers = [buffer.flatten() for buffer in self._buffers()]
        return torch.cat(buffers) if buffers else None

    def _restore_statistics(self, copy: Tensor | None) -> None:
        if copy is not None:
            sizes = [buffer.numel() for buffer in self._buffers()]
            for buffer, values in zip(self._buffers(), torch.split(copy, sizes), strict=True):
                buffer.copy_(values.view_as(buffer))

    def _buffers(self) -> list[Tensor]:
        return [buffer for norm in self._norms for buffer in (norm.running_mean, norm.running_var)]

    def _tell(self, economy: _Economy, batch: int, passes: int, device: torch.device) -> None:
        if economy.patches is None:
            how, effect = "computes parts of a step twice", "the result stays the same"
        elif economy.patches == batch and passes > 1:
            how, effect = "takes the passes of a step one after the other", "the result stays the same"
        else:
            how = f"takes {economy.patches} of the {batch} patches of a step at a time"
            effect = "the result stays the same"
            if self._norms:
                effect = "batch normalisation sees fewer patches, and the result may differ a little"
        where = device_in_words(str(device))
        logger.warning("training %s: the memory of %s does not suffice for more; %s.", how, where, effect)


def _economies(batch: int, passes: int) -> list[_Economy]:
    """List the ways to compute a step, the least frugal one first."""
    ways = [_Economy(False, None), _Economy(True, None)]
    if passes > 1:
        ways.append(_Economy(True, batch))
    divisors = [n for n in range(batch - 1, 0, -1) if batch % n == 0]
    return ways + [_Economy(True, n) for n in divisors]


@contextmanager
def _momentum(norms: list[PassNorm], momentum: float | None, parts: int = 1) -> Iterator[None]:
    """Let batches count in running statistics by this momentum; None shares the usual one among parts."""
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1 - (1 - norm.momentum) ** (1 / parts) if momentum is None else momentum
    try:
        yield
    finally:
        for norm, usual in zip(norms, before, strict=True):
            norm.momentum = usual


def _recompute_units(network: nn.Module) -> None:
    """Let the units of a network compute their activations again on the way back instead of keeping them."""
    for unit in network.modules():
        if isinstance(unit, ResidualUnit | DoubleConvolution):
            norms = [module for module in unit.modules() if isinstance(module, PassNorm)]
            unit.forward = partial(_recomputed, unit.forward, norms)  # type: ignore[method-assign]


def _recomputed(forward: Callable[[Tensor], Tensor], norms: list[PassNorm], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(x)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        # Running statistics learn from the way there alone.
        return nullcontext(), _momentum(norms, 0.0)

    y: Tensor = checkpoint(forward, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return y
