"""From clips to logits: pixels, precision, and the cached outputs of the frozen part."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from vidclf.data.clips import ClipSet
from vidclf.models import training
from vidclf.models.activations import ActivationCache, weights_digest
from vidclf.models.frame_gradients import FrameGradients
from vidclf.models.train_config import Cache, Precision
from vidclf.models.training import Batch
from vidclf.models.video_network import VideoNetwork
from vidclf.models.views import View, Views

_LARGEST = torch.finfo(torch.float16).max
_POOLED_AT_ONCE = 8
"""Clips that go through a network together where only its pooled features are wanted."""


class Forward:
    """A network with all that stands between a clip and its logits.

    Args:
        name: The network's, a key of `vidclf.models.networks.NETWORKS`.
        network: On the device that computes.
        views: How clips become pixels.
        mean: Of each channel, for values 0 to 1.
        std: Standard deviation of each channel.
        precision: Of matrix products and convolutions.
        fixed_views: Whether epochs see the same augmented views again.
        cache: ``auto`` keeps the frozen part's outputs of views that come again.
    """

    def __init__(
        self,
        name: str,
        network: VideoNetwork,
        views: Views,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        precision: Precision,
        fixed_views: bool,
        cache: Cache,
    ) -> None:
        self.network, self.views = network, views
        self._name, self._precision, self._fixed_views = name, precision, fixed_views
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
        load = partial(self._load, clips, view, kept)
        for indices, loaded in zip(batches, training.prefetched(load, batches), strict=True):
            if kept is not None:
                self._fill(kept, [kept.entry(clips, index, view) for index in indices], loaded)
            yield torch.stack(loaded)

    def logits(self, inputs: Tensor) -> Tensor:
        """float32 (B, classes) of pixels (B, T, 3, size, size), or of what the frozen part made of them."""
        with self._autocast(), self._gradients():
            if inputs.dtype == torch.uint8:
                logits: Tensor = self.network(self.normalised(inputs))
            else:
                logits = self.network.head(self.network.features(inputs.float()))
        return logits.float()

    def embeddings(self, inputs: Tensor) -> Tensor:
        """float32 (B, width): the pooled features that the head makes `logits` of."""
        with self._autocast(), self._gradients():
            pixels = inputs.dtype == torch.uint8
            maps = self.network.prefix(self.normalised(inputs)) if pixels else inputs.float()
            return self.network.features(maps).float()

    def pooled(self, clips: ClipSet) -> Tensor:
        """The features before the head as they are kept, all stages frozen: float16 (clips, width)."""
        (view,) = self.views.evaluation()
        # Also those that are not kept one by one on a CPU, so that every bit is the same.
        size = 1 if self.views.device.type == "cpu" else _POOLED_AT_ONCE
        batches = training.batches(range(len(clips)), size)
        rows = [
            self._frozen(inputs) if inputs.dtype == torch.uint8 else inputs
            for inputs in self.inputs(clips, batches, view)
        ]
        return torch.cat(rows)

    def _frozen(self, pixels: Tensor) -> Tensor:
        """The frozen part's float16 output of pixels (B, T, 3, size, size), as it is kept."""
        with torch.no_grad(), self._autocast():
            return self.network.prefix(self.normalised(pixels)).clamp(-_LARGEST, _LARGEST).half()

    def _load(self, clips: ClipSet, view: View, kept: ActivationCache | None, indices: Batch) -> list[Tensor]:
        """Of each clip what was kept of the view, else its pixels."""
        items = []
        for index in indices:
            output = None if kept is None else kept.read(kept.entry(clips, index, view))
            items.append(self.views.pixels(clips, index, view) if output is None else output)
        return items

    def _fill(self, kept: ActivationCache, entries: Sequence[Path], loaded: list[Tensor]) -> None:
        """Replaces pixels by the frozen part's output, and keeps it."""
        lacking = [place for place, item in enumerate(loaded) if item.dtype == torch.uint8]
        # One by one on a CPU, so that no output depends, by a rounding, on the clips beside it.
        size = 1 if self.views.device.type == "cpu" else max(1, len(lacking))
        for places in training.batches(lacking, size):
            pixels = torch.stack([loaded[place] for place in places])
            for place, output in zip(places, self._frozen(pixels), strict=True):
                kept.keep(entries[place], output)
                loaded[place] = output

    def normalised(self, pixels: Tensor) -> Tensor:
        """What the network takes, float32, of pixels (B, T, 3, size, size), uint8."""
        return (pixels.to(self._mean.device).float() - self._mean) / self._std

    def _gradients(self) -> contextlib.AbstractContextManager[object]:
        on_cpu = self.views.device.type == "cpu"
        return FrameGradients() if on_cpu and self._precision == "bf16" else contextlib.nullcontext()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.views.device.type, torch.bfloat16, enabled=self._precision == "bf16")

    @cached_property
    def _activations(self) -> ActivationCache:
        """Made when first asked for, as all that it keeps depends on the network's frozen weights."""
        network, device = self.network, self.views.device
        frozen = network.stages[: network.frozen_stages].state_dict()
        made_by = [
            *(self._name, network.frozen_stages, network.fixed_poolings, weights_digest(frozen)),
            *(self._mean.tolist(), self._std.tolist(), self._precision),
            *(str(network.memory_format), device.type, torch.__version__),
        ]
        if device.type == "cpu":
            return ActivationCache(made_by, self.views)
        room = self.views.room
        return ActivationCache(made_by, self.views, device, room, largest=room)
