"""A clip as hand-made features see it: square frames, their grey values, and what moves in them."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from vidclf.data.pictures import Frames

Vector = NDArray[np.float64]
Body = NDArray[np.float32]
"""Landmarks of one body in each frame, (T, `LANDMARKS`, 4): right and down in units of the frame's height,
how surely the landmark is seen, and how surely there is a body in the frame, 0 to 1."""

LANDMARKS = 33
"""Of face, arms, hands, hips, legs and feet, the left side's before the right side's."""

DIRECTIONS = 8
"""Orientation bins of the motion; the first is centred on the right."""
STILL = 0.005
"""Motion between two frames below this share of the frame's edge counts as none."""
_IN_PAIRS = 0.25
"""The least motion that counts is so much smaller where pictures are a fixed time apart."""
_OUTSIDE = 0.03
"""Share of the motion beyond each side of the box that is followed."""
_NARROWEST = 2 / 7
"""The least edge of that box, as a share of the frame's."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """A clip's frames, and what several features need of them, computed when it is first asked for.

    Attributes:
        frames: RGB, uint8 (T, S, S, 3).
        pairs: Grey values of two pictures a fixed time apart at each instant, uint8 (n, S, S, 2), for the
            flow; ``None``: it is taken from each frame to the next.
        follow: Whether the flow is seen in the box of what moves, without the camera's.
        body: The body in each of the clip's whole pictures; ``None``: nobody was looked for.
    """

    frames: Frames
    pairs: Frames | None = None
    follow: bool = False
    body: Body | None = None

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

        Where it is followed, (n, height, width, 2), neither above S, see `_followed`.

        Dense flow by DIS (Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016).
        """
        before, after = self.moved
        flow = np.zeros((max(len(before), 1), *self.grey.shape[1:], 2), dtype=np.float32)
        solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        for first, second, step in zip(before, after, flow, strict=False):
            solver.calc(first, second, step)
        return _followed(flow, self.least) if self.follow else flow

    @property
    def least(self) -> float:
        """Motion in pixels below which a pixel counts as still."""
        edge: int = self.frames.shape[1]
        return STILL * self.sensitivity * edge

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


def _followed(flow: NDArray[np.float32], least: float) -> NDArray[np.float32]:
    """Motion without the camera's, in the box that holds nearly all of what is left over the clip.

    The camera's is the median of each picture, as most of it is background. Shares
    of cells then say how somebody moves, wherever and however large they are seen.
    """
    own = flow - np.median(flow, axis=(1, 2), keepdims=True)
    strength = np.hypot(own[..., 0], own[..., 1])
    energy = np.where(strength < least, 0, strength).sum(axis=0, dtype=np.float64)
    if not energy.any():
        return own
    rows, columns = (_extent(energy.sum(axis=axis)) for axis in (1, 0))
    return own[:, rows, columns]


def _extent(energy: Vector) -> slice:
    """Where along an axis the energy lies, but for a small share at either end."""
    edge, narrowest = len(energy), round(_NARROWEST * len(energy))
    shares = np.cumsum(energy) / energy.sum()
    start, end = (int(np.searchsorted(shares, share)) for share in (_OUTSIDE, 1 - _OUTSIDE))
    if end + 1 - start < narrowest:
        start = min(max((start + end - narrowest) // 2, 0), edge - narrowest)
        end = start + narrowest - 1
    return slice(start, end + 1)
