"""Scans a folder of clips, and writes a first experiment of each family and a study."""

import itertools
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidclf.data.answers import read_answers
from vidclf.data.check import ClipCheck, check_clips
from vidclf.data.importing import divide_clips, read_sources
from vidclf.data.manifest import SPLITS, Entry
from vidclf.data.scenes import group_by_scene
from vidclf.data.splitting import group_of
from vidclf.evaluation.intervals import FEWEST_GROUPS
from vidclf.exceptions import InputError
from vidclf.models.networks import published_weights
from vidclf.progress import Progress, silent
from vidclf.scaffold.defaults import (
    ENCODER,
    EXTRA,
    USUAL,
    DefaultValue,
    FolderSummary,
    Machine,
    choose,
    choose_division,
    networks,
)
from vidclf.scaffold.templates import STEMS, experiment_text, study_text

Reachable = Callable[[str], bool]

_MOST_NAMED = 20
"""Clips that one message names."""
_UNUSABLE = ("unreadable", "empty", "damaged")
"""Verdicts of `data check` that `train` refuses."""


@dataclass(frozen=True)
class InitResult:
    """What was written.

    Attributes:
        manifest: The CSV file.
        experiments: One file a family, by stem.
        study: The study over those that can begin here.
        look: What the folder holds.
        choices: Default values, each with its reason.
        waiting: Families that are not in the study yet, and what they wait for.
        notes: What a user should know of the data.
    """

    manifest: Path
    experiments: dict[str, Path]
    study: Path
    look: FolderSummary
    choices: tuple[DefaultValue, ...]
    waiting: dict[str, str]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            **asdict(self),
            "manifest": str(self.manifest),
            "experiments": {stem: str(path) for stem, path in self.experiments.items()},
            "study": str(self.study),
        }


def start(
    folder: Path,
    to: Path,
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    by_scene: bool = False,
    force: bool = False,
    machine: Machine | None = None,
    weights: Mapping[str, Path] | None = None,
    reachable: Reachable = lambda _: False,
    progress: Progress = silent,
) -> InitResult:
    """Looks at the clips and writes ``data/NAME``, ``experiments/NAME`` and ``studies/NAME.toml``.

    Args:
        folder: A folder per class, also below train, val and test; or UCF-101's.
        to: The folder that gets the files.
        name: ``NAME``; ``None``: the clips' folder's.
        classes: Only these; ``None``: all.
        by_scene: Groups are scenes, found by how the clips look, in place of what their names say.
        force: Replace files that exist.
        machine: What to plan for; ``None``: this one.
        weights: Files of weights by their networks, which take the place of the usual ones.
        reachable: Whether a URL's host answers, for weights that are not on this machine.
        progress: Called with (clips done, clips in all) while they are decoded.

    Raises:
        InputError: The folder holds no such clips, a file exists, or weights do not fit; nothing was written
            then.
    """
    if folder.is_file():
        raise InputError(f"{folder}: a file; name the folder that has a folder of clips for each class")
    name = name or re.sub(r"[^\w.-]+", "_", folder.resolve().name).strip("._") or "clips"
    manifest = to / "data" / name / "manifest.csv"
    study = to / "studies" / f"{name}.toml"
    entries, notes = read_sources([str(folder)], classes)
    machine, given = machine or Machine.here(), dict(weights or {})
    used = networks(machine, given)
    stems = [stem for stem in STEMS if stem in used or stem == "svm"]
    experiments = {stem: to / "experiments" / name / f"{stem}.toml" for stem in stems}
    _check_weights(given)
    _refuse_existing([manifest, study, *experiments.values()], force)
    done = itertools.count(1)
    checks = check_clips([entry.clip_path for entry in entries], lambda: progress(next(done), len(entries)))
    unusable = {item.clip_path: item.reason for item in checks if item.verdict in _UNUSABLE}
    entries = _usable(entries, unusable)
    if by_scene:
        entries = group_by_scene(entries, answers=read_answers(manifest))
    division = choose_division(entries)
    shares = division.value if division.key == "shares" else USUAL
    imported = divide_clips(entries, manifest, shares, notes)
    look = _look(imported.entries, [item for item in checks if item.clip_path not in unusable], unusable)
    waiting = {
        stem: reason
        for stem, network in used.items()
        if network not in given and (reason := _lacks(network, machine, reachable))
    }
    choices = [division, *choose(look, machine, used)]
    for stem, path in experiments.items():
        kind = "networks" if stem in used else stem
        values = {choice.key: choice for choice in choices if choice.file in ("experiments", kind, stem)}
        file = given.get(used.get(stem, ""))
        _write(path, experiment_text(stem, name, look, values, file and file.resolve()))
    values = {choice.key: choice for choice in choices if choice.file in ("manifest", "experiments", "study")}
    _write(study, study_text(name, values, [stem for stem in experiments if stem not in waiting], waiting))
    notes = list(imported.notes)
    if look.groups["test"] < FEWEST_GROUPS:
        notes.append("test has too few groups to tell anything: vidclf promote will want --accept untested")
    return InitResult(manifest, experiments, study, look, tuple(choices), waiting, tuple(notes))


def _refuse_existing(paths: Sequence[Path], force: bool) -> None:
    existing = [str(path) for path in paths if path.exists()]
    if existing and not force:
        raise InputError(
            f"{', '.join(existing)}: exists already; --force replaces it, --name NAME writes beside it"
        )


def _usable(entries: Sequence[Entry], unusable: Mapping[Path, str]) -> list[Entry]:
    """The clips that can be read.

    Raises:
        InputError: There are none of a class, which all that follows would do without, unsaid.
    """
    usable = [entry for entry in entries if entry.clip_path not in unusable]
    kept = {entry.label for entry in usable}
    lost = sorted({entry.label for entry in entries} - kept)
    if lost:
        named = [f"  {path}: {reason}" for path, reason in unusable.items()]
        raise InputError(
            f"no clip of the {'class' if len(lost) == 1 else 'classes'} {', '.join(lost)} can be read:",
            *named[:_MOST_NAMED],
            *([f"  and {len(named) - _MOST_NAMED} more"] if len(named) > _MOST_NAMED else []),
            f"Mend them, or leave the class out: --classes {','.join(sorted(kept)) or 'A,B'}",
        )
    return usable


def _look(entries: Sequence[Entry], checks: Sequence[ClipCheck], unusable: dict[Path, str]) -> FolderSummary:
    facts = [item.facts for item in checks if item.facts]
    seconds = sorted(fact.seconds for fact in facts)
    seen: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        seen[entry.label] |= {group_of(entry)} if entry.split != "test" else set()
    by_split = {split: [entry for entry in entries if entry.split == split] for split in SPLITS}
    return FolderSummary(
        classes=dict(sorted(Counter(entry.label for entry in entries).items())),
        splits={split: len(found) for split, found in by_split.items()},
        groups={split: len({group_of(entry) for entry in found}) for split, found in by_split.items()},
        grouped=all(entry.group for entry in entries),
        fewest=min(map(len, seen.values())),
        seconds=(seconds[0], statistics.median(seconds), seconds[-1]),
        frames=min(fact.decoded for fact in facts),
        size=Counter((fact.width, fact.height) for fact in facts).most_common(1)[0][0],
        left_out={str(path): reason for path, reason in unusable.items()},
    )


def _check_weights(given: Mapping[str, Path]) -> None:
    from vidclf.models.weights import load_backbone  # imports torch: seconds

    for network, file in given.items():
        load_backbone(network, str(file))


def _lacks(network: str, machine: Machine, reachable: Reachable) -> str:
    """Why pretrained weights cannot be had now; empty where they can."""
    if network == ENCODER:
        return _lacks_encoder(machine, reachable)
    from vidclf.models.weights import downloaded_file  # imports torch: seconds

    file = downloaded_file(network)
    url = published_weights(network).url
    if file.exists() or reachable(url):
        return ""
    return (
        f"{url} does not answer; repeat vidclf init with --force when that file is at {file}, or, where you "
        f"have it elsewhere, with --weights {network}=FILE"
    )


def _lacks_encoder(machine: Machine, reachable: Reachable) -> str:
    if not machine.encoders:
        return f"pip install 'vidclf[{EXTRA}]', then repeat vidclf init with --force"
    from huggingface_hub import try_to_load_from_cache

    from vidclf.models.hub import endpoint

    repository = ENCODER.partition(":")[2]
    cached = isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)
    if cached or reachable(endpoint()):
        return ""
    return (
        f"{endpoint()} does not answer; hf download {repository} --local-dir FOLDER where there is internet, "
        'then model.network = "hf:FOLDER" there, and the file in base of the study'
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
