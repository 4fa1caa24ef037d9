"""From clips to logits: pixels, precision, and the cached outputs of the frozen part."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from vidclf.data.clips import ClipSet
from vidclf.models import devices, precision, training
from vidclf.models.activations import ActivationCache, weights_digest
from vidclf.models.frame_gradients import has_long_kernels
from vidclf.models.memory import MemorySaver
from vidclf.models.networks import identity
from vidclf.models.train_config import Cache, Precision
from vidclf.models.training import Batch
from vidclf.models.video_network import VideoNetwork
from vidclf.models.views import View, Views

_LARGEST = torch.finfo(torch.float16).max
_UNWRITTEN = 2
"""Batches of new outputs that wait to be written at most."""
_POOLED_AT_ONCE = 8
"""Clips that go through a network together where only its pooled features are wanted."""


@dataclass
class _Loaded:
    """What was read ahead of a batch.

    Attributes:
        pixels: Of the clips that lack the frozen part's output; ``None`` where all have one.
        outputs: Of the frozen part, where they are kept; ``None`` where there was none.
        entries: Where they are kept.
    """

    pixels: Tensor | None
    outputs: list[Tensor | None] = field(default_factory=list)
    entries: Sequence[Path] = ()


class Forward:
    """A network with all that stands between a clip and its logits.

    Args:
        network: Put where pixels are made, in its own layout.
        views: How clips become pixels.
        mean: Of each channel, for values 0 to 1.
        std: Standard deviation of each channel.
        precision: Of matrix products and convolutions.
        fixed_views: Whether epochs see the same augmented views again.
        cache: ``auto`` keeps the frozen part's outputs of views that come again.
    """

    def __init__(
        self,
        network: VideoNetwork,
        views: Views,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        precision: Precision,
        fixed_views: bool,
        cache: Cache,
    ) -> None:
        self.network = network.to(views.device).to(memory_format=network.memory_format)
        self.views = self._pixels_by = views
        self._precision, self._fixed_views = precision, fixed_views
        self.memory = MemorySaver(self._drop_cache, self._move_inputs)
        self._has_long_kernels = has_long_kernels(network)
        self._loaded_ahead: deque[_Loaded] = deque()
        self._keeps = cache == "auto" and network.frozen_stages > 0 and network.frozen_norm == "eval"
        self._mean, self._std = (
            255 * torch.tensor(values, device=views.device).view(3, 1, 1) for values in (mean, std)
        )

    def inputs(self, clips: ClipSet, batches: Sequence[Batch], view: View) -> Iterator[Tensor]:
        """What `logits` takes of each batch: kept outputs of the frozen part (float16), else pixels (uint8).

        The next batches are read ahead in a second thread.
        """
        # A set without a store is one that nothing may be remembered of: it is being timed.
        comes_again = self._fixed_views or not view.augmented
        kept = self._activations if self._keeps and comes_again and clips.store is not None else None
        self._loaded_ahead.clear()
        with ThreadPoolExecutor(1) as writer:
            written: deque[Future[None]] = deque()
            for loaded in training.prefetched(partial(self._load, clips, view, kept), batches):
                if kept is not None:
                    if loaded.pixels is not None:
                        written.append(writer.submit(self._fill(kept, loaded, loaded.pixels)))
                        if len(written) > _UNWRITTEN:
                            written.popleft().result()
                    loaded.pixels = self._stacked(loaded)
                self._loaded_ahead.popleft()
                assert loaded.pixels is not None
                yield loaded.pixels
            for writing in written:
                writing.result()

    def logits(self, inputs: Tensor) -> Tensor:
        """float32 (B, classes) of pixels (B, T, 3, size, size), or of what the frozen part made of them."""
        with self.computing():
            return self.compute(inputs).float()

    def compute(self, inputs: Tensor) -> Tensor:
        """As `logits`, in the precision and of the type that stand around it."""
        if inputs.dtype == torch.uint8:
            logits: Tensor = self.network(self.normalised(inputs))
        else:
            logits = self.network.head(self.network.features(inputs.to(self._mean.device).float()))
        return logits

    def embeddings(self, inputs: Tensor) -> Tensor:
        """float32 (B, width): the pooled features that the head makes `logits` of."""
        with self.computing():
            pixels = inputs.dtype == torch.uint8
            there = inputs.to(self._mean.device)
            maps = self.network.prefix(self.normalised(there)) if pixels else there.float()
            return self.network.features(maps).float()

    def over_views(
        self, clips: ClipSet, batch_size: int, width: int, compute: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What ``compute`` makes of the clips' evaluation views; float64 (views, clips, width)."""
        self.network.eval()
        batches = training.batches(range(len(clips)), batch_size)
        # They stay on the device until all are there: to read one is to wait for all that is queued.
        values = [torch.empty(0, width, device=self.views.device)]
        with precision.reproducible(self._precision):
            for view in self.views.evaluation():
                for inputs in self.inputs(clips, batches, view):
                    with torch.inference_mode():
                        values.append(self.memory.compute(compute, inputs))
        return torch.cat(values).cpu().double().view(self.views.eval_views, len(clips), width)

    def pooled(self, clips: ClipSet) -> Tensor:
        """The features before the head as they are kept, all stages frozen: float16 (clips, width)."""
        (view,) = self.views.evaluation()
        # Also those that are not kept one by one on a CPU, so that every bit is the same.
        size = 1 if self.views.device.type == "cpu" else _POOLED_AT_ONCE
        batches = training.batches(range(len(clips)), size)
        rows = [
            self.memory.compute(self._frozen, inputs) if inputs.dtype == torch.uint8 else inputs
            for inputs in self.inputs(clips, batches, view)
        ]
        return torch.cat(rows)

    def _frozen(self, pixels: Tensor) -> Tensor:
        """The frozen part's float16 output of pixels (B, T, 3, size, size), as it is kept."""
        with torch.no_grad(), self.computing():
            return self.network.prefix(self.normalised(pixels)).clamp(-_LARGEST, _LARGEST).half()

    def _load(self, clips: ClipSet, view: View, kept: ActivationCache | None, indices: Batch) -> _Loaded:
        loaded, lacking = _Loaded(None), indices.tolist()
        if kept is not None:
            loaded.entries = [kept.entry(clips, index, view) for index in indices]
            loaded.outputs = kept.read(loaded.entries)
            lacking = [index for index, output in zip(indices, loaded.outputs, strict=True) if output is None]
        self._loaded_ahead.append(loaded)
        if lacking:
            loaded.pixels = self.memory.compute(
                lambda some: self._pixels_by.pixels(clips, some, view), lacking
            )
        return loaded

    def _stacked(self, loaded: _Loaded) -> Tensor:
        """The outputs of a batch in one tensor."""

        def stack(places: Sequence[int]) -> Tensor:
            return torch.stack(
                [output for output in loaded.outputs[places[0] :][: len(places)] if output is not None]
            )

        return self.memory.compute(stack, range(len(loaded.outputs)))

    def _drop_cache(self) -> bool:
        """Gives up the outputs that stay on the device; whether there were any."""
        made = self.__dict__.get("_activations")
        return made is not None and made.drop()

    def _move_inputs(self) -> None:
        """From now on inputs are made and wait in main memory."""
        cpu = torch.device("cpu")
        self._pixels_by = replace(self.views, device=cpu)
        if "_activations" in self.__dict__:
            self._activations.device = cpu
        for loaded in list(self._loaded_ahead):
            loaded.pixels = None if loaded.pixels is None else loaded.pixels.cpu()
            loaded.outputs = [None if output is None else output.cpu() for output in loaded.outputs]

    def _fill(self, kept: ActivationCache, loaded: _Loaded, pixels: Tensor) -> Callable[[], None]:
        """Adds what the frozen part makes of the pixels; what comes back writes it."""
        # One by one on a CPU, so that no output depends, by a rounding, on the clips beside it.
        at_once = 1 if self.views.device.type == "cpu" else len(pixels)
        parts = torch.split(pixels, at_once)
        made = torch.cat([self.memory.compute(self._frozen, part) for part in parts])
        made = made.to(self._pixels_by.device)
        places = [place for place, output in enumerate(loaded.outputs) if output is None]
        for place, output in zip(places, made, strict=True):
            loaded.outputs[place] = output
        return kept.keep([loaded.entries[place] for place in places], made)

    def normalised(self, pixels: Tensor) -> Tensor:
        """What the network takes, float32, of pixels (B, T, 3, size, size), uint8."""
        return (pixels.to(self._mean.device).float() - self._mean) / self._std

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Within it all is computed in the precision that was asked for."""
        return precision.computing(self.views.device, self._precision, long_kernels=self._has_long_kernels)

    @cached_property
    def _activations(self) -> ActivationCache:
        """Made when first asked for, as all that it keeps depends on the network's frozen weights."""
        network, device = self.network, self.views.device
        frozen = network.stages[: network.frozen_stages].state_dict()
        made_by = [
            *(identity(network.name), network.frozen_stages, network.kept, weights_digest(frozen)),
            *(self._mean.tolist(), self._std.tolist(), self._precision),
            *(str(network.memory_format), devices.model(device), torch.__version__),
        ]
        if device.type == "cpu":
            return ActivationCache(made_by, self.views)
        room = self.views.room
        return ActivationCache(made_by, self.views, device, room, largest=room)
