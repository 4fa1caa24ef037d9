"""The checkpoint of a fit: its state between two epochs, from which an interrupted fit resumes."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from vidclf.config import digest
from vidclf.data.clips import ClipSet
from vidclf.data.staging import to_host
from vidclf.exceptions import TrialPruned
from vidclf.models.training import BestSoFar
from vidclf.models.video_network import VideoNetwork
from vidclf.models.views import content_key

_FILE = "epoch.pt"
_REST = 20
"""Seconds of rest for each second that a checkpoint took to be written."""


def fit_identity(arguments: dict[str, Any], train: ClipSet, val: ClipSet) -> str:
    """What a checkpoint must have been made from to be gone on with."""
    clips = [
        (content_key(path), int(label))
        for split in (train, val)
        for path, label in zip(split.paths, split.labels, strict=True)
    ]
    return digest([arguments, clips, len(train)])


@dataclass
class FitState:
    """How far a fit has come.

    Attributes:
        network: Being trained.
        optimizer: Over what is not frozen.
        scaler: Of the loss, in fp16.
        best: Chooses the epoch whose weights are kept.
        stop: Counts epochs without improvement.
        history: Curves of each finished epoch.
        best_weights: What training changes, as it was after the best epoch; in main memory.
        parts: In how many parts a batch is worked off.
    """

    network: VideoNetwork
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    best: BestSoFar
    stop: BestSoFar
    parts: int = 1
    history: list[dict[str, float]] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def advance(self, curves: dict[str, float], *, judged: bool) -> None:
        """Takes note of a finished epoch; one that no val clips judge is the best so far."""
        self.history.append(curves)
        if not judged or self.best.improves(curves):
            changing = self._changing()
            self.best_weights = dict(zip(changing, to_host(list(changing.values()))(), strict=True))
        if judged:
            self.stop.improves(curves)

    def finished(self, epochs: int, patience: int, min_epochs: int) -> bool:
        """Whether all epochs are done, or none was better for ``patience`` of at least ``min_epochs``."""
        done = len(self.history)
        return done >= epochs or (self.stop.waited >= patience > 0 and done >= min_epochs)

    def restore_best(self) -> None:
        """Gives the network the weights that it had after the best epoch."""
        self.network.load_state_dict(self.best_weights, strict=False)

    def copied(self, identity: str) -> Callable[[], dict[str, Any]]:
        """What a fit of the same ``identity`` goes on from, as it is now; the copy may arrive later."""
        state = {
            "identity": identity,
            "network": self._changing(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": asdict(self.best),
            "stop": asdict(self.stop),
            "parts": self.parts,
            "history": list(self.history),
            "best_weights": self.best_weights,
        }
        leaves, structure = tree_flatten(state)
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        arrived = to_host([leaves[place] for place in places])

        def complete() -> dict[str, Any]:
            for place, values in zip(places, arrived(), strict=True):
                leaves[place] = values
            return cast(dict[str, Any], tree_unflatten(leaves, structure))

        return complete

    def restore(self, folder: Path, identity: str) -> None:
        """Goes on from what `CheckpointWriter` wrote; anew where that is missing, torn or of another fit."""
        try:
            state: dict[str, Any] = torch.load(folder / _FILE, map_location="cpu", weights_only=True)
        except Exception:  # a torn or foreign file makes torch raise anything
            return
        if not isinstance(state, dict) or state.get("identity") != identity:
            return
        self.network.load_state_dict(state["network"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best, self.stop = BestSoFar(**state["best"]), BestSoFar(**state["stop"])
        self.parts, self.history, self.best_weights = state["parts"], state["history"], state["best_weights"]

    def _changing(self) -> dict[str, Tensor]:
        """What training changes."""
        fixed = self.network.fixed_names()
        return {
            name: values.detach() for name, values in self.network.state_dict().items() if name not in fixed
        }


class CheckpointWriter:
    """Writes the state of a fit in a second thread, so often that it takes a small share of the time.

    After one that took t seconds the next rests for 20 t: so much and one epoch is lost at most.

    Args:
        folder: Where to; ``None``: nothing is written.
        identity: Of the fit, see `FitState.restore`.
    """

    def __init__(self, folder: Path | None, identity: str) -> None:
        self._folder, self._identity = folder, identity
        self._written = 0
        self._rest_until = 0.0
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def offer(self, state: FitState) -> None:
        """Begins to write the state after an epoch, if it is time."""
        busy = self._writing is not None and not self._writing.done()
        if not busy and time.monotonic() >= self._rest_until:
            self.write(state)

    def write(self, state: FitState) -> None:
        """Begins to write the state after an epoch, unless it is there already."""
        if self._writing is not None:
            self._writing.result()
        if self._folder is None or self._written == len(state.history):
            return
        self._written = len(state.history)
        self._writing = self._thread.submit(self._write, self._folder, state.copied(self._identity))

    @contextlib.contextmanager
    def cut_here(self, state: FitState) -> Iterator[None]:
        """Writes the state after an epoch if what is done meanwhile ends the fit, but for pruning."""
        try:
            yield
        except TrialPruned:
            raise
        except BaseException:
            self.write(state)
            raise

    def _write(self, folder: Path, copied: Callable[[], dict[str, Any]]) -> None:
        """Whole or not at all."""
        began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{_FILE}.partial"
        torch.save(copied(), partial)
        partial.replace(folder / _FILE)
        ended = time.monotonic()
        self._rest_until = ended + _REST * (ended - began)
