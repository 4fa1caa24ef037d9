"""The activation cache: outputs of the frozen part of a network, computed once for each view.

Frozen stages give the same output for the same view in every epoch, trial,
worker and study. It is kept on disk in half precision, which changes logits by
about 2e-5 of their size, and only the stages behind it are run again.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidclf.data import cache, video
from vidclf.data.clips import ClipSet
from vidclf.data.manifest import content_digest
from vidclf.data.staging import to_device, to_host
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

    def read(self, entries: Sequence[Path]) -> list[Tensor | None]:
        """The float16 outputs that were kept, on the device; ``None`` where none was."""
        rows: list[Tensor | None] = []
        read: dict[int, Tensor] = {}
        for place, entry in enumerate(entries):
            rows.append(self._held.get(entry))
            if rows[place] is not None:
                cache.lookups.count(found=True)
            # Copy on write: torch wants memory that may be written to.
            elif (values := cache.load(entry, "c")) is not None:
                read[place] = torch.from_numpy(values)
        there: Iterable[Tensor] = read.values()
        if read and self.device.type != "cpu":
            there = to_device(torch.stack(list(there)), self.device)
        for place, output in zip(read, there, strict=True):
            rows[place] = self._hold(entries[place], output)
        return rows

    def _hold(self, entry: Path, values: Tensor) -> Tensor:
        if values.nbytes > min(self.largest, self.room):
            return values
        self.room -= values.nbytes
        return self._held.setdefault(entry, values.clone())

    def drop(self) -> bool:
        """Gives up what stays on the device; whether there was any."""
        held, self.room = bool(self._held), 0
        self._held.clear()
        return held

    def keep(self, entries: Sequence[Path], values: Tensor) -> Callable[[], None]:
        """Begins to copy float16 outputs; what comes back writes them where there is room."""
        arrived = to_host([values])

        def write() -> None:
            for entry, output in zip(entries, *arrived(), strict=True):
                cache.save(entry, output.contiguous().numpy())

        return write
