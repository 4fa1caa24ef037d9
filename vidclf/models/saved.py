"""The folder of a saved model: plain files, the same for every kind."""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from vidclf.data.clips import ClipSet
from vidclf.data.manifest import content_digest
from vidclf.data.pictures import Frames
from vidclf.evaluation.calibration import BOUNDS, apply_temperature
from vidclf.exceptions import InputError
from vidclf.models.base import Classifier, Probabilities

CARD = "vidclf.json"
"""The file in a model's folder that says how to load it."""
FORMAT = 1


@dataclass(frozen=True)
class ModelMetadata:
    """What must be known of a saved model beside its weights.

    Attributes:
        kind: Key into `vidclf.models.MODELS`.
        classes: Class of each column of the probabilities.
        grid: Instants a clip, see `vidclf.data.video.decode`.
        store_side: Upper limit of the frames' short side in pixels.
        experiment: The resolved config that it was trained with.
        trained_on: Content digest and group of every training clip.
        versions: Libraries at training time.
        apart: Seconds to the later pictures that it takes motion from, see `vidclf.data.video.assembled`.
        temperature: By which its logits are divided, see `vidclf.evaluation.calibration`.
        confidence: The least at which it answers, see `vidclf.evaluation.abstention`; 0: always.
        format: Version of this folder's layout.
    """

    kind: str
    classes: tuple[str, ...]
    grid: int
    store_side: int
    experiment: Mapping[str, Any]
    trained_on: tuple[tuple[str, str], ...]
    versions: Mapping[str, str]
    apart: float = 0.0
    temperature: float = 1.0
    confidence: float = 0.0
    format: int = FORMAT


@dataclass(frozen=True)
class SavedModel:
    """A trained classifier together with its card."""

    card: ModelMetadata
    classifier: Classifier

    def clips(self, paths: Iterable[Path]) -> ClipSet:
        """Video files as this model wants them, decoded when read."""
        card = self.card
        return ClipSet.of_files(paths, card.classes, card.grid, card.store_side, card.apart)

    def predict(self, paths: Iterable[Path]) -> Probabilities:
        """Class probabilities of video files, calibrated, shape (files, classes).

        Raises:
            ClipError: A file gives no frames.
        """
        return self.probabilities(self.clips(paths))

    def probabilities(self, clips: ClipSet) -> Probabilities:
        """Class probabilities of clips, calibrated, shape (clips, classes)."""
        return apply_temperature(self.classifier.predict_proba(clips), self.card.temperature)

    def answer(self, row: NDArray[np.float64]) -> str | None:
        """The most probable class of one row of probabilities; ``None`` where it is not confident enough."""
        best = int(row.argmax())
        return self.card.classes[best] if row[best] >= self.card.confidence else None

    def predict_frames(self, name: Path, frames: Frames) -> Probabilities:
        """Class probabilities of one clip that was decoded elsewhere, shape (1, classes).

        Args:
            name: What stands for its file; it need not exist.
            frames: Its grid, as `vidclf.data.video.decode` gives it for the card's values.
        """
        return self.probabilities(replace(self.clips([name]), read=lambda _: frames))


def write_card(card: ModelMetadata, directory: Path) -> None:
    (directory / CARD).write_text(json.dumps(asdict(card), indent=1) + "\n", encoding="utf-8")


def read_card(directory: Path) -> ModelMetadata:
    """The card of a model's folder.

    Raises:
        InputError: The folder holds no model, or one of a newer format.
    """
    try:
        fields = json.loads((directory / CARD).read_text(encoding="utf-8"))
        written_in = fields["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{directory}: not a saved model (no readable {CARD})") from None
    if written_in != FORMAT:
        raise InputError(
            f"{directory}: saved in format {written_in!r}, this vidclf reads {FORMAT}; "
            "use the version that wrote it"
        )
    try:
        card = TypeAdapter(ModelMetadata).validate_python(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise InputError(f"{directory / CARD}: damaged: {key}: {problem['msg']}") from None
    if not BOUNDS[0] <= card.temperature <= BOUNDS[1]:
        raise InputError(
            f"{directory / CARD}: temperature = {card.temperature} is not between {BOUNDS[0]} and "
            f"{BOUNDS[1]}; 1.0 leaves the probabilities as they are"
        )
    return card


def card_digest(directory: Path) -> str:
    """SHA-256 of the card's file: of classes, their order, and all that prepares a clip."""
    return hashlib.sha256((directory / CARD).read_bytes()).hexdigest()


def folder_digest(directory: Path) -> str:
    """SHA-256 of a saved model: of every file, with its name.

    Raises:
        InputError: The folder holds no model.
    """
    read_card(directory)
    found = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(directory)}:{content_digest(path)}\n".encode())
    return found.hexdigest()


def check_folder(directory: Path) -> None:
    """Refuses a model's folder that holds anything but files of its own.

    A link could make whoever packages or publishes the folder read a file of theirs, and to read
    from a pipe or a device may never end.

    Raises:
        InputError: Names the first such entry.
    """
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: a saved model consists of plain files, not of links or devices")


def check_archive(path: Path) -> None:
    """Refuses a zip archive that unpacks to more than it weighs, before anything of it is unpacked.

    Neither torch nor skops compress what they write unless told so; vidclf doesn't.

    Raises:
        InputError: It is no archive, or unpacks to more.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sum(member.file_size for member in archive.infolist())
    # The last one is how zipfile refuses an archive that needs a newer version of the format to be read.
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: not a readable archive: {error}") from None
    outside = path.stat().st_size
    if inside > outside:
        raise InputError(
            f"{path}: not opened: its {outside:,} bytes would unpack to {inside:,}, and what is saved for "
            "vidclf is not compressed"
        )
