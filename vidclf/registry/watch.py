"""``vidclf watch``: new clips beside those of val, whose labels nobody needs to know."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from sklearn.preprocessing import StandardScaler

from vidclf.data.clips import ClipSet
from vidclf.data.manifest import Entry, read_manifest
from vidclf.data.remote import named
from vidclf.data.scenes import group_by_scene
from vidclf.data.sources import named_group
from vidclf.evaluation.drift import Drift, WatchedClips, drift
from vidclf.exceptions import ClipError, InputError
from vidclf.inference.predict import find_videos
from vidclf.labels import plural
from vidclf.models import load_model
from vidclf.models.saved import ModelMetadata, SavedModel
from vidclf.progress import Progress, silent
from vidclf.registry.download import fetch_run
from vidclf.runs.experiment import clip_store, divided, parse_experiment
from vidclf.runs.folder import Attempt
from vidclf.runs.retrain import check_clips
from vidclf.runs.store import Store
from vidclf.tracking.deliverer import Deliverer
from vidclf.tracking.lookup import ATTEMPT_TAG, attempt_of

GroupedBy = Literal["names", "scenes"]
Values = NDArray[np.float64]
NAMES = {"confidence": "how sure the model is", "classes": "what it calls them", "appearance": "what it sees"}
"""The quantities of `vidclf.evaluation.drift` in words."""


@dataclass(frozen=True)
class WatchResult:
    """What was found of a folder of new clips.

    Attributes:
        classes: Of the model.
        known: The clips of val.
        new: The new ones.
        paths: The files of the new ones.
        unreadable: Files that gave no pictures, with the reason.
        grouped_by: ``names`` or ``scenes``: how the groups of the new clips are known.
        drift: How both differ.
        to_label: Places among the new clips that would teach the most, the first one first.
    """

    classes: Sequence[str]
    known: WatchedClips
    new: WatchedClips
    paths: Sequence[Path]
    unreadable: dict[str, str]
    grouped_by: GroupedBy
    drift: Drift
    to_label: Sequence[int]

    @property
    def basis(self) -> str:
        """Of how many clips and groups the comparison is."""
        known, new = self.drift.groups
        guessed = ", which were guessed by how clips look" if self.grouped_by == "scenes" else ""
        return (
            f"{plural(len(self.known.groups), 'clip')} of val from {plural(known, 'group')}, "
            f"{plural(len(self.paths), 'new clip')} from {plural(new, 'group')}{guessed}"
        )

    def verdict(self, rate: float) -> str:
        """The answer in a sentence; ``rate`` is how often an alarm may be false."""
        alarm = self.drift.alarm(rate)
        if alarm is None:
            return (
                f"Nothing can be told: with so few groups no p is below {self.drift.least_p:.2g}, "
                f"and an alarm wants {rate:g}. Add clips of other groups."
            )
        if not alarm:
            return f"The new clips differ from those of val no more than groups do (p > {rate:g})."
        differ = [NAMES[each.what] for each in self.drift.differences if each.p <= rate]
        return f"The new clips differ from those of val (p <= {rate:g}): {', '.join(differ)}."

    def as_dict(self, rate: float) -> dict[str, Any]:
        """In the shape of ``--json``; see `verdict`."""
        known, new = self.drift.groups
        return {
            "alarm": self.drift.alarm(rate),
            "verdict": self.verdict(rate),
            "rate": rate,
            "differences": [asdict(each) for each in self.drift.differences],
            "groups": {"val": known, "new": new, "by": self.grouped_by},
            "clips": {"val": len(self.known.groups), "new": len(self.paths)},
            "shares": {name: {"val": known, "new": new} for name, (known, new) in self.shares().items()},
            "label_next": self.labelled_next(),
            "unreadable": self.unreadable,
        }

    def shares(self) -> dict[str, tuple[float, float]]:
        """Of each class the share of the clips of val, and of the new ones, that the model calls so."""
        said = [clips.probabilities.argmax(axis=1) for clips in (self.known, self.new)]
        return {
            name: (float((said[0] == number).mean()), float((said[1] == number).mean()))
            for number, name in enumerate(self.classes)
        }

    def labelled_next(self) -> list[dict[str, Any]]:
        """The clips that would teach the most, the first one first."""
        rows = []
        for place in self.to_label:
            row = self.new.probabilities[place]
            best = int(row.argmax())
            rows.append(
                {
                    "clip_path": named(self.paths[place]),
                    "group": self.new.groups[place],
                    "label": self.classes[best],
                    "confidence": float(row[best]),
                }
            )
        return rows


def watch(
    store: Store, reference: str, model: Path, folder: Path, *, most: int, progress: Progress = silent
) -> WatchResult:
    """Compares the clips of a folder with those of val of the model.

    Args:
        store: Where runs and the registry are.
        reference: ``NAME@alias``, ``NAME/3``, a run id, or a run's folder.
        model: Its saved model, see `vidclf.registry.resolve.resolve_model`.
        folder: The new clips.
        most: How many clips to name that should be labelled next.
        progress: Called with (clips done, clips in all).

    Raises:
        InputError: There is no such model, its clips of val are not on this machine, or the folder holds no
            readable clips.
    """
    files = [Path(file) for file in find_videos([str(folder)]) if Path(file).is_file()]
    if not files:
        raise InputError(f"{folder}: no videos in it")
    check_clips(_attempt_behind(store, reference))
    saved = load_model(model)
    known = _val_clips(saved.card)
    total = len(known) + len(files)
    progress(0, total)
    before = WatchedClips(saved.probabilities(known), saved.classifier.embed(known), known.groups)
    rows, read, unreadable = [], list[Path](), dict[str, str]()
    for number, path in enumerate(files, start=1):
        progress(len(known) + number, total)
        try:
            rows.append(_seen(saved, path))
        except ClipError as error:
            unreadable[named(path)] = error.reason
        else:
            read.append(path)
    if not read:
        raise InputError(f"{folder}: none of its {len(files)} videos can be read")
    groups, grouped_by = _groups(read)
    probabilities, embeddings = map(np.concatenate, zip(*rows, strict=True))
    after = WatchedClips(probabilities, embeddings, groups)
    found = drift(before, after)
    chosen = _to_label(before, after, most)
    return WatchResult(saved.card.classes, before, after, read, unreadable, grouped_by, found, chosen)


def _seen(saved: SavedModel, path: Path) -> tuple[Values, Values]:
    """Probabilities and embedding of one file, which is decoded once."""
    clips = saved.clips([path])
    frames = clips.read(path)
    decoded = replace(clips, read=lambda _: frames)
    return saved.probabilities(decoded), saved.classifier.embed(decoded)


def _groups(files: Sequence[Path]) -> tuple[list[str], GroupedBy]:
    """Groups as the files' names give them, else the scenes that the clips seem to show."""
    by_name = [named_group(str(file)) for file in files]
    if all(by_name):
        return by_name, "names"
    by_path = {
        entry.clip_path: entry.group for entry in group_by_scene([Entry(file, "", "", "") for file in files])
    }
    return [by_path[file] for file in files], "scenes"


def _to_label(known: WatchedClips, new: WatchedClips, most: int) -> list[int]:
    """The new clips that would teach the most: those that the model is unsure of and that are unlike val.

    Clips of one group teach much the same, so the best of each group comes before the second best of any.
    """
    first, second = np.sort(new.probabilities, axis=1)[:, :-3:-1].T
    scaler = StandardScaler().fit(known.embeddings)
    nearest = cdist(scaler.transform(new.embeddings), scaler.transform(known.embeddings)).min(axis=1)
    worth = rankdata(second - first) + rankdata(nearest)
    places, turns = list[tuple[int, int]](), Counter[str]()
    for place in np.argsort(-worth, kind="stable").tolist():
        places.append((turns[new.groups[place]], place))
        turns[new.groups[place]] += 1
    return [place for _, place in sorted(places, key=lambda each: each[0])][:most]


def _attempt_behind(store: Store, reference: str) -> Attempt:
    """The run whose model a reference means."""
    folder = Path(reference).expanduser()
    for candidate in (folder, folder.parent):
        if folder.is_dir() and (candidate / "attempt.json").exists():
            return Attempt(candidate)
    if folder.is_dir():
        raise InputError(f"{reference}: a model alone does not tell its clips of val; name its run's folder")
    found = None
    if "@" in reference or "/" in reference:
        client = Deliverer(store).client
        name, at, alias = reference.rpartition("@")
        if at:
            version = client.get_model_version_by_alias(name, alias)
        else:
            version = client.get_model_version(*reference.rsplit("/", 1))
        wanted, run_id = version.tags.get(ATTEMPT_TAG), str(version.run_id)
        found = next((each for each, identity in store.all_attempts() if identity.id == wanted), None)
    else:
        run_id = reference
        found = attempt_of(store, reference)
    attempt = found or fetch_run(store, run_id)
    if attempt is None:
        raise InputError(f"{reference}: its run is not in {store.folder}, which knows its clips of val")
    return attempt


def _val_clips(card: ModelMetadata) -> ClipSet:
    """The clips that judged a model; of a study by folds those of the fold that its model was trained for."""
    experiment = parse_experiment(card.experiment, "the model")
    manifest = read_manifest(experiment.data.manifest)
    entries = divided(experiment, manifest)["val"]
    if not entries:
        raise InputError(f"{manifest.name}: has no clips of val, which new ones could be compared with")
    return ClipSet.of_entries(entries, manifest.classes, clip_store(experiment))
