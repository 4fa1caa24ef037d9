"""A clip as hand-made features see it: square frames, their grey values, and what moves in them."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from vidclf.data.pictures import Frames

Vector = NDArray[np.float64]

DIRECTIONS = 8
"""Orientation bins of the motion; the first is centred on the right."""
STILL = 0.005
"""Motion between two frames below this share of the frame's edge counts as none."""
_IN_PAIRS = 0.25
"""The least motion that counts is so much smaller where pictures are a fixed time apart."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """A clip's frames, and what several features need of them, computed when it is first asked for.

    Attributes:
        frames: RGB, uint8 (T, S, S, 3).
        pairs: Grey values of two pictures a fixed time apart at each instant, uint8 (n, S, S, 2), for the
            flow; ``None``: it is taken from each frame to the next.
    """

    frames: Frames
    pairs: Frames | None = None

    @cached_property
    def grey(self) -> NDArray[np.uint8]:
        """Luma, shape (T, S, S)."""
        return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in self.frames]).astype(
            np.uint8, copy=False
        )

    @cached_property
    def moved(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Pictures, and what became of each: of the pairs, or each frame and the next; two of (n, S, S).

        Of one frame there are none. The last frame of a file is its own later picture and is left out.
        """
        if self.pairs is None:
            return self.grey[:-1], self.grey[1:]
        before, after = np.ascontiguousarray(np.moveaxis(self.pairs, -1, 0))
        last = -1 if np.array_equal(before[-1], after[-1]) else None
        return before[:last], after[:last]

    @cached_property
    def flow(self) -> NDArray[np.float32]:
        """Motion in pixels (right, down) of `moved`, float32 (n, S, S, 2), n at least 1.

        Dense flow by DIS (Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016).
        """
        before, after = self.moved
        flow = np.zeros((max(len(before), 1), *self.grey.shape[1:], 2), dtype=np.float32)
        solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        for first, second, step in zip(before, after, flow, strict=False):
            solver.calc(first, second, step)
        return flow

    @cached_property
    def sensitivity(self) -> float:
        """What the least motion that counts is multiplied by: pictures of a pair are nearer to each other."""
        return 1.0 if self.pairs is None else _IN_PAIRS


def directions(vectors: NDArray[np.float32], least: float) -> NDArray[np.int64]:
    """Which of 8 directions vectors (..., 2), right and down, have; 8: they are shorter than ``least``."""
    right, down = vectors[..., 0], vectors[..., 1]
    direction = np.round(np.arctan2(down, right) / (2 * np.pi / DIRECTIONS)).astype(np.int64) % DIRECTIONS
    direction[np.hypot(right, down) < least] = DIRECTIONS
    return direction
