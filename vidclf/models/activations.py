"""The activation cache: outputs of the frozen part of a network, computed once for each view.

Frozen stages give the same output for the same view in every epoch, trial,
worker and study. It is kept on disk in half precision, which changes logits by
about 2e-5 of their size, and only the stages behind it are run again.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidclf.data import cache, video
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import content_digest
from vidclf.models.views import View, Views

_SMALL = 2**16
"""Bytes up to which an output stays in main memory: to open its file costs more than to read it."""
_ROOM = 2**26
"""Bytes of such outputs that stay there."""


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of a state dict."""
    total = hashlib.sha256()
    for name, values in sorted(state.items()):
        plain = values.detach().cpu().contiguous()
        total.update(f"{name} {plain.dtype} {tuple(plain.shape)};".encode())
        total.update(plain.view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


@dataclass
class ActivationCache:
    """The kept outputs of one frozen part.

    Attributes:
        made_by: All that an output depends on beside clip and view: weights, cut, precision, device.
        views: How clips become pixels.
        device: Where outputs are wanted.
        room: Bytes that may stay on the device, each output at most ``largest``.
        largest: See ``room``.
    """

    made_by: Sequence[Any]
    views: Views
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    room: int = _ROOM
    largest: int = _SMALL
    _held: dict[Path, Tensor] = field(default_factory=dict, init=False, repr=False)

    def entry(self, clips: ClipSet, index: int, view: View) -> Path:
        """The file of a view of clip ``index``, whether it exists or not; the clips have a store."""
        assert clips.store is not None
        frames = [video.DECODER, clips.store.grid, clips.store.store_side]
        content = content_digest(clips.paths[index])
        return cache.entry("activations", *self.made_by, content, *frames, self.views.key(view))

    def read(self, entry: Path) -> Tensor | None:
        """The float16 output that was kept; ``None`` where none was."""
        if entry in self._held:
            cache.lookups.count(found=True)
            return self._held[entry]
        kept = cache.load(entry, "c")  # copy on write: torch wants memory that may be written to
        if kept is None:
            return None
        values = torch.from_numpy(kept).to(self.device)
        if values.nbytes > min(self.largest, self.room):
            return values
        self.room -= values.nbytes
        return self._held.setdefault(entry, values.clone())

    def keep(self, entry: Path, values: Tensor) -> None:
        """Writes a float16 output where there is room."""
        cache.save(entry, values.cpu().contiguous().numpy())
