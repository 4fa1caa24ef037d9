"""From the features of frames to those of a clip: what `vidclf.models.networks.Pooling` names."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidclf.models.networks import Pooling

_HIDDEN = 64
"""Width in which the poolings that know order compute."""


class _Mean(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(self.dims)


class _Max(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        """(B, width) of (B, T, width)."""
        return frames.amax(dim=1)


class _Attention(nn.Module):
    """A weighted mean of frames whose weights, a softmax of linear scores, are learned.

    The pooling of Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance
    Learning" (ICML 2018), eq. 7 and 8, without the hidden layer before the scores: the
    features are deep already, and training sets are small. It starts as the mean.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, width) of (B, T, width)."""
        weights: Tensor = self.score(frames).float().softmax(dim=1)
        return (weights * frames).sum(dim=1)


class _Ordered(nn.Module):
    """The mean of frames, and what their order adds to it; it starts as the mean.

    Each frame's normalised features are reduced to 64, ``steps`` looks at them in
    their order, (B, T, 64) to (B, T, 64), and the mean of what it gives is widened again.
    """

    def __init__(self, width: int, steps: nn.Module) -> None:
        super().__init__()
        self.narrow = nn.Linear(width, _HIDDEN)
        self.steps = steps
        self.widen = nn.Linear(_HIDDEN, width, bias=False)
        nn.init.zeros_(self.widen.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, width) of (B, T, width)."""
        narrow = self.narrow(functional.layer_norm(frames, frames.shape[-1:]))
        order: Tensor = self.widen(self.steps(narrow).mean(dim=1))
        return frames.mean(dim=1) + order


class _Gru(nn.Module):
    """The states of a gated recurrent unit (Cho et al., EMNLP 2014), written out: alike on all devices."""

    def __init__(self) -> None:
        super().__init__()
        self.of_frames, self.of_state = nn.Linear(_HIDDEN, 3 * _HIDDEN), nn.Linear(_HIDDEN, 3 * _HIDDEN)

    def forward(self, frames: Tensor) -> Tensor:
        state, states = torch.zeros_like(frames[:, 0]), []
        for given in self.of_frames(frames).unbind(dim=1):
            (reset, update, new), of_state = given.chunk(3, dim=1), self.of_state(state).chunk(3, dim=1)
            update = (update + of_state[1]).sigmoid()
            new = (new + (reset + of_state[0]).sigmoid() * of_state[2]).tanh()
            state = new + update * (state - new)
            states.append(state)
        return torch.stack(states, dim=1)


class _Convolutions(nn.Module):
    """Three convolutions over time, each added to what it saw, which together see 15 frames at once."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(_HIDDEN, _HIDDEN, 3, padding=step, dilation=step) for step in (1, 2, 4)
        )

    def forward(self, frames: Tensor) -> Tensor:
        seen = frames.transpose(1, 2)
        for layer in self.layers:
            seen = seen + layer(seen).relu()
        return seen.transpose(1, 2)


class _Transformer(nn.Module):
    """A block of self-attention on frames and their places (Vaswani et al., NeurIPS 2017), norm first."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(_HIDDEN) for _ in range(2))
        self.queries_keys_values = nn.Linear(_HIDDEN, 3 * _HIDDEN)
        self.joined = nn.Linear(_HIDDEN, _HIDDEN)
        self.perceptron = nn.Sequential(
            nn.Linear(_HIDDEN, 2 * _HIDDEN), nn.GELU(), nn.Linear(2 * _HIDDEN, _HIDDEN)
        )

    def forward(self, frames: Tensor) -> Tensor:
        placed = frames + _places(frames.shape[1], frames.device)
        # Written out: deterministic on every device, counted and exported as it is.
        split = self.queries_keys_values(self.norms[0](placed)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(_HIDDEN // self.heads)
        attended = (scores.float().softmax(dim=-1) @ values).transpose(1, 2).flatten(2)
        seen = placed + self.joined(attended)
        tokens: Tensor = seen + self.perceptron(self.norms[1](seen))
        return tokens


def _places(frames: int, device: torch.device) -> Tensor:
    """Sines and cosines of each frame's place, shape (frames, 64)."""
    rates = 10_000 ** (-torch.arange(0, _HIDDEN, 2, device=device) / _HIDDEN)
    angles = torch.arange(frames, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


_OF_FRAMES: dict[Pooling, Callable[[int], nn.Module]] = {
    "max": lambda _: _Max(),
    "attention": _Attention,
    "gru": lambda width: _Ordered(width, _Gru()),
    "conv": lambda width: _Ordered(width, _Convolutions()),
    "transformer": lambda width: _Ordered(width, _Transformer()),
}
"""Beside ``avg``, which needs no features of single frames."""


def pooling_steps(dims: Literal[2, 3], pooling: Pooling, width: int) -> nn.Sequential:
    """Steps from maps to features of clips, (B, width); all but the last are free of parameters."""
    if dims == 3:
        if pooling != "avg":
            raise ValueError(f"volumes are pooled by avg, not {pooling}")
        return nn.Sequential(_Mean(2, 3, 4))
    if pooling == "avg":
        return nn.Sequential(_Mean(1, 3, 4))
    return nn.Sequential(_Mean(3, 4), _OF_FRAMES[pooling](width))
