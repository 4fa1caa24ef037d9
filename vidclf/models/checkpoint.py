"""The checkpoint of a fit: its state between two epochs, from which an interrupted fit resumes."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidclf.models.training import BestSoFar
from vidclf.models.video_network import VideoNetwork

_FILE = "epoch.pt"


@dataclass
class FitState:
    """How far a fit has come.

    Attributes:
        network: Being trained.
        optimizer: Over what is not frozen.
        best: Chooses the epoch whose weights are kept.
        stop: Counts epochs without improvement.
        history: Curves of each finished epoch.
        best_weights: What training changes, as it was after the best epoch; in main memory.
        parts: In how many parts a batch is worked off.
    """

    network: VideoNetwork
    optimizer: torch.optim.Optimizer
    best: BestSoFar
    stop: BestSoFar
    parts: int = 1
    history: list[dict[str, float]] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def advance(self, curves: dict[str, float], *, judged: bool) -> None:
        """Takes note of a finished epoch; one that no val clips judge is the best so far."""
        self.history.append(curves)
        if not judged or self.best.improves(curves):
            self.best_weights = self._changing()
        if judged:
            self.stop.improves(curves)

    def restore_best(self) -> None:
        """Gives the network the weights that it had after the best epoch."""
        self.network.load_state_dict(self.best_weights, strict=False)

    def save(self, folder: Path, identity: str) -> None:
        """Writes everything, whole or not at all, to be read by a fit of the same ``identity``."""
        state = {
            "identity": identity,
            "network": self._changing(),
            "optimizer": self.optimizer.state_dict(),
            "best": asdict(self.best),
            "stop": asdict(self.stop),
            "parts": self.parts,
            "history": self.history,
            "best_weights": self.best_weights,
        }
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{_FILE}.partial"
        torch.save(state, partial)
        partial.replace(folder / _FILE)

    def restore(self, folder: Path, identity: str) -> None:
        """Goes on from what `save` wrote; starts anew where that is missing, torn or of another fit."""
        try:
            state: dict[str, Any] = torch.load(folder / _FILE, map_location="cpu", weights_only=True)
        except Exception:  # a torn or foreign file makes torch raise anything
            return
        if not isinstance(state, dict) or state.get("identity") != identity:
            return
        self.network.load_state_dict(state["network"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.stop = BestSoFar(**state["best"]), BestSoFar(**state["stop"])
        self.parts, self.history, self.best_weights = state["parts"], state["history"], state["best_weights"]

    def _changing(self) -> dict[str, Tensor]:
        """A copy in main memory of what training changes."""
        fixed = self.network.fixed_names()
        return {
            name: values.detach().to("cpu", copy=True)
            for name, values in self.network.state_dict().items()
            if name not in fixed
        }
