"""The views of a clip that a network is trained and judged on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vidclf.data.augmentation import as_tensor, eval_view, train_view
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import content_digest
from vidclf.data.video import Frames


class View(NamedTuple):
    """One way to see every clip.

    Attributes:
        augmented: Whether it is drawn at random, for training, or fixed, for evaluation.
        number: Which of the views of its sort.
    """

    augmented: bool
    number: int


@dataclass
class Views:
    """How clips become pixels; attributes without a word here are keys of ``[data]`` and ``[model]``.

    Attributes:
        interpolation: How pictures are resized for evaluation, as the weights want it.
        augment: Keyword arguments of `train_view`.
        device: Where pixels are made.
        room: Bytes of clips that may stay on the device; 0 where it is the main memory.
    """

    frames: int
    size: int
    resize: int | Sequence[int]
    interpolation: str
    eval_views: int
    augment_seed: int
    augment: Mapping[str, Any]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    room: int = 0
    _on_device: dict[Path, Tensor] = field(default_factory=dict, init=False, repr=False)

    def evaluation(self) -> list[View]:
        """The views whose probabilities are averaged."""
        return [View(augmented=False, number=number) for number in range(self.eval_views)]

    def pixels(self, clips: ClipSet, index: int, view: View) -> Tensor:
        """A view of clip ``index``, uint8 (frames, 3, size, size) on the device."""
        grid = self._grid(clips, index)
        if not view.augmented:
            instant = (view.number + 0.5) / self.eval_views
            return eval_view(
                grid,
                self.frames,
                self.size,
                self.resize,
                interpolation=self.interpolation,
                instant=instant,
            )
        clip = content_key(clips.paths[index])
        return train_view(
            grid, self.frames, self.size, seed=self.augment_seed, clip=clip, view=view.number, **self.augment
        )

    def key(self, view: View) -> list[Any]:
        """All that the pixels of a view depend on beside the clip's stored frames."""
        common = [self.frames, self.size, *view]
        if view.augmented:
            return [*common, self.augment_seed, dict(self.augment)]
        return [*common, self.resize, self.interpolation, self.eval_views]

    def _grid(self, clips: ClipSet, index: int) -> Frames | Tensor:
        if self.device.type == "cpu":
            return clips.grid(index)
        path = clips.paths[index]
        held = self._on_device.get(path)
        if held is None:
            held = as_tensor(clips.grid(index)).to(self.device)
            # A set without a store is one that nothing may be remembered of: it is being timed.
            if clips.store is not None and held.nbytes <= self.room:
                self.room -= held.nbytes
                self._on_device[path] = held
        return held


def content_key(path: Path) -> str:
    """What identifies a clip in its views: its file's content, or its name where it lies in memory only."""
    return content_digest(path) if path.exists() else path.as_posix()
