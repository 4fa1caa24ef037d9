"""The views of a clip that a network is trained and judged on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vidclf.data.augmentation import draw_view, eval_view, eval_views, train_view, train_views
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import content_digest
from vidclf.data.pictures import Grid


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
        mirrored: Whether evaluation sees the clips' mirror images.
        augment: Keyword arguments of `draw_view`.
        device: Where pixels are made.
        room: Bytes of what is kept of clips that may stay on the device; 0 where it is the main memory.
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
    mirrored: bool = False

    def evaluation(self) -> list[View]:
        """The views whose probabilities are averaged."""
        return [View(augmented=False, number=number) for number in range(self.eval_views)]

    def pixels(self, clips: ClipSet, indices: Iterable[int], view: View) -> Tensor:
        """A view of some of the clips, uint8 (clips, frames, 3, size, size) on the device."""
        indices = list(indices)
        grids = [clips.grid(index) for index in indices]
        if not view.augmented:
            seen = self._evaluated(grids, (view.number + 0.5) / self.eval_views)
            return seen.flip(-1) if self.mirrored else seen
        drawn = [
            draw_view(
                grid.shape,
                self.frames,
                seed=self.augment_seed,
                clip=content_key(clips.paths[index]),
                view=view.number,
                **self.augment,
            )
            for grid, index in zip(grids, indices, strict=True)
        ]
        if self.device.type != "cpu":
            return train_views(grids, self.size, drawn, self.device)
        return torch.stack(
            [train_view(grid, self.size, of_clip) for grid, of_clip in zip(grids, drawn, strict=True)]
        )

    def _evaluated(self, grids: Sequence[Grid], instant: float) -> Tensor:
        how: dict[str, Any] = {"interpolation": self.interpolation, "instant": instant}
        if self.device.type != "cpu":
            return eval_views(grids, self.frames, self.size, self.resize, self.device, **how)
        return torch.stack([eval_view(grid, self.frames, self.size, self.resize, **how) for grid in grids])

    def key(self, view: View) -> list[Any]:
        """All that the pixels of a view depend on beside the clip's stored frames."""
        common = [self.frames, self.size, *view]
        if view.augmented:
            return [*common, self.augment_seed, dict(self.augment)]
        seen = [*common, self.resize, self.interpolation, self.eval_views]
        return [*seen, "mirrored"] if self.mirrored else seen


def content_key(path: Path) -> str:
    """What identifies a clip in its views: its file's content, or its name where it lies in memory only."""
    return content_digest(path) if path.exists() else path.as_posix()
