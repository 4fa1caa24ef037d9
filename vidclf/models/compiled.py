"""The logits of training batches through `torch.compile`, where that is asked for and pays."""

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor

from vidclf.models import devices
from vidclf.models.forward import Forward
from vidclf.models.memory import BatchNormStatistics
from vidclf.models.train_config import Compile

logger = logging.getLogger(__name__)

_OPTIONS: dict[str, Any] = {"triton.cudagraphs": True, "fallback_random": True}
"""CUDA graphs, which torch makes on CUDA alone, and dropout that draws what it draws uncompiled."""
_WORTH_TRYING = 60.0
"""Seconds that are left to train at least: compiling takes about as long."""
_WARM_UP, _TIMED = 3, 5
"""Steps before those that are timed: a CUDA graph is recorded in the second; and those that are timed."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a forward and backward pass as it is and compiled, and of compiling it."""

    eager: float
    compiled: float
    compiling: float

    def pays(self, steps: int) -> bool:
        """Whether it is worth to be compiled for so many steps."""
        return self.compiling + steps * self.compiled < steps * self.eager


_TIMES: dict[tuple[Any, ...], StepTimes] = {}
"""What this process has measured, by network and shape."""


class TrainingForward:
    """From training batches to logits: those of one shape compiled, all others as `Forward.logits` has them.

    The shape is that of the first batch, so a smaller last one is never compiled for. Where torch cannot
    compile a network, or memory runs out, it is computed as it is from then on.

    Args:
        forward: What is compiled; nothing of it changes by that.
        asked: ``compile`` of `TrainConfig`.
        named: The network's name and its precision, which a measurement holds for.

    Attributes:
        steps: That are left to train.
    """

    def __init__(self, forward: Forward, asked: Compile, *named: str) -> None:
        self._forward, self._asked, self._named = forward, asked, named
        self._shape: tuple[Any, ...] | None = None
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._has_compiled = False
        self.steps = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Gives up what was compiled: it is of this network alone."""
        self.give_up()

    def __call__(self, inputs: Tensor) -> Tensor:
        """float32 (B, classes) of what `Forward.inputs` made of a batch, with gradients."""
        shape = (inputs.shape, inputs.dtype, inputs.device)
        if self._asked != "off" and self._shape is None:
            self._shape = shape
            self._compiled = self._tried(inputs)
        if self._compiled is None or shape != self._shape:
            return self._forward.logits(inputs)
        return self._logits(self._compiled, inputs)

    def give_up(self) -> None:
        """Computes as it is from now on; compiled code and its memory go."""
        self._compiled = None
        if self._has_compiled:
            # Its last steps fail where a thread that reads ahead has torch note something; the first matter.
            with contextlib.suppress(RuntimeError):
                torch.compiler.reset()

    def _logits(self, compute: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        with self._forward.computing():
            return compute(inputs).float()

    def _tried(self, inputs: Tensor) -> Callable[[Tensor], Tensor] | None:
        """The network compiled for such inputs; ``None`` where it cannot be, or is not worth it."""
        statistics = BatchNormStatistics(self._forward.network)
        with devices.forked_rng(self._forward.views.device):
            try:
                return self._compiled_for(inputs)
            except Exception as error:  # torch and compilers raise anything
                cause = " ".join(filter(None, map(str.strip, str(error).splitlines()[:2])))
                logger.warning("train.compile: computed as it is, torch cannot compile this: %s", cause)
                return None
            finally:
                statistics.restore()

    def _compiled_for(self, inputs: Tensor) -> Callable[[Tensor], Tensor] | None:
        plain = functools.partial(self._step, self._forward.compute, inputs)
        auto, learned = self._asked == "auto", tuple(each.shape for each in self._learned())
        key = (*self._named, learned, inputs.shape, inputs.dtype, inputs.device)
        known = _TIMES.get(key)
        if auto and known is not None and not known.pays(self.steps):
            return None
        eager = known.eager if known is not None else _seconds(plain) if auto else math.nan
        if auto and eager * self.steps < _WORTH_TRYING:
            return None
        self._has_compiled = True
        compute = cast(
            Callable[[Tensor], Tensor],
            torch.compile(self._forward.compute, fullgraph=True, dynamic=False, options=_OPTIONS),
        )
        step = functools.partial(self._step, compute, inputs)
        began = time.perf_counter()
        step()  # errors of both passes come here
        compiling = time.perf_counter() - began
        if not auto or known is not None:
            return compute
        _TIMES[key] = times = StepTimes(eager, _seconds(step), compiling)
        logger.info(
            f"train.compile: a step takes {1e3 * times.compiled:.3g} ms compiled, "
            f"{1e3 * eager:.3g} ms as it is; compiling took {compiling:.0f} s"
        )
        return compute if times.compiled < eager else None

    def _step(self, compute: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
        """A forward and a backward pass that leave no gradients."""
        summed = self._logits(compute, inputs).square().sum()
        torch.autograd.grad(summed, self._learned(), allow_unused=True)

    def _learned(self) -> list[torch.nn.Parameter]:
        return [each for each in self._forward.network.parameters() if each.requires_grad]


def _seconds(step: Callable[[], None]) -> float:
    """Of one step, on average."""
    for _ in range(_WARM_UP):
        step()
    devices.finish()
    began = time.perf_counter()
    for _ in range(_TIMED):
        step()
    devices.finish()
    return (time.perf_counter() - began) / _TIMED
