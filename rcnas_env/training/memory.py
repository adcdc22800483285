"""Going on when memory runs out: fewer images at once, the same mathematics as far as batch norm allows.

What runs out of memory is repeated, from the state that it began in, with half as many images at once; the smaller
number then stays. In evaluation mode (the inner maximisation, attacks, verdicts) images do not see each other, and the
results are the same to rounding, with the same random draws. A step of training adds up the gradients of its
micro-batches, each weighted by its share of the images: without batch norm that is the gradient of the whole batch, to
rounding. With it, images are normalised by the mean and variance of their micro-batch, and the running averages move
once for each micro-batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from rcnas_env.networks.divided import Divided

T = TypeVar("T")

OUT_OF_MEMORY_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""How plain RuntimeErrors of torch say that memory ran out: of a CPU, and of the libraries on a GPU."""


class MemoryWarning(UserWarning):
    """Memory ran out; what was under way is repeated with fewer images at once."""


class NoRoomError(RuntimeError):
    """Memory ran out, and fewer images at once cannot help."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error` says that memory, of a CPU or a GPU, did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | NoRoomError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


class MicroBatch:
    """How many images go through a network at once: all of a batch, until memory runs out.

    size: the most at once; None as long as memory never ran out.

    Args:
        least: the number of images at which halving ends, at least 1; 2 in training, as batch norm needs two.
    """

    def __init__(self, least: int = 1) -> None:
        self.least = least
        self.size: int | None = None

    def run(self, count: int, attempt: Callable[[], T], restore: Callable[[], None] = lambda: None) -> T:
        """What `attempt` returns, called again with half the `size` as often as it runs out of memory.

        Args:
            count: images of a batch, which `attempt` divides by `shares` or `divide`.
            attempt: the work; any other error than for want of memory is raised as it is.
            restore: undoes what a failed attempt has changed.

        Raises:
            NoRoomError: memory did not suffice for `least` images either.

        Warns:
            MemoryWarning: each time that the size is halved.
        """
        while True:
            try:
                return attempt()
            except Exception as error:
                if not is_out_of_memory(error) or isinstance(error, NoRoomError):
                    raise
                reason = (str(error).strip() or type(error).__name__).split("\n")[0]
            # outside the except clause: the error's frames, which hold the feature maps, are gone
            self._halve(count, reason)
            restore()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def shares(self, count: int) -> list[int]:
        """`count` images as sizes of micro-batches that differ by one at most, none below `least` (nor above `size`).

        Where `count` is odd and `size` is 2, one has three images rather than one.
        """
        if self.size is None or count <= self.size:
            return [count]
        parts = max(1, min(-(-count // self.size), count // self.least))
        return [count // parts + (part < count % parts) for part in range(parts)]

    def divide(self, model: nn.Module) -> nn.Module:
        """`model`, in evaluation mode, so that at most `size` images go through it at once; itself while there is none.

        Gradients reach the images, not the parameters.
        """
        return model if self.size is None else Divided(model, self.size)

    def _halve(self, count: int, reason: str) -> None:
        before = count if self.size is None else min(self.size, count)
        if before // 2 < self.least:
            raise NoRoomError(f"memory does not suffice for {before} images at once: {reason}")
        self.size = before // 2
        text = f"out of memory with {before} images at once, going on with {self.size}: {reason}"
        warnings.warn(text, MemoryWarning, stacklevel=3)


def keep_state(model: nn.Module, generator: torch.Generator) -> Callable[[], None]:
    """A function that takes the buffers of `model`, its gradients and `generator` back to where they are now.

    The buffers are batch norm's statistics; gradients go back to none at all, which is where a step begins.
    """
    buffers, drawn = [buffer.clone() for buffer in model.buffers()], generator.get_state()

    def restore() -> None:
        """Put back buffers and generator, and drop the gradients."""
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        model.zero_grad(set_to_none=True)
        generator.set_state(drawn)

    return restore
