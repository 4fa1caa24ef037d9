"""Clips as arrays: the clip store, and the sets of clips that models are trained and tested on."""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray

from vidclf.data import cache, sampling, video
from vidclf.data.manifest import Entry, Manifest, Split, content_digest
from vidclf.data.remote import named
from vidclf.data.video import Frames
from vidclf.exceptions import ClipError, InputError
from vidclf.progress import Advance, silent

logger = logging.getLogger(__name__)

_WORTH_TELLING = 10**9
"""Bytes from which on a build's size is told beforehand."""


@dataclass(frozen=True)
class ClipStore:
    """Decoded clips on disk, one memory-mapped array each, shared by epochs, trials and processes.

    It fills up to the caches' limit and then stays as it is; what does not fit is
    decoded at each access.

    Attributes:
        grid: Instants a clip, see `video.decode`.
        store_side: Upper limit of the short side in pixels.
        apart: Seconds to the later pictures that are kept too, see `video.assembled`; 0: none are.
    """

    grid: int
    store_side: int
    apart: float = 0.0

    def entry(self, path: Path) -> Path:
        """The file that holds the decoded clip, whether it exists or not."""
        return cache.entry("clips", content_digest(path), video.DECODER, self.grid, self.store_side)

    def _later_entry(self, path: Path) -> Path:
        made_from = content_digest(path), video.DECODER, self.grid, self.store_side
        return cache.entry("clips", *made_from, "later", self.apart)

    def holds(self, path: Path) -> bool:
        """Whether all that is read of the clip is stored."""
        return self.entry(path).exists() and (not self.apart or self._later_entry(path).exists())

    def read(self, path: Path) -> Frames:
        """The clip's grid, uint8 (T, H, W, 3), with later pictures (T, H, W, 4), read-only.

        Raises:
            ClipError: As `video.decode`.
        """
        frames: Frames | None = cache.load(self.entry(path), "r")
        if frames is None or not self.apart:
            return self._decode(path).frames if frames is None else frames
        later: Frames | None = cache.load(self._later_entry(path), "r")
        if later is None:
            return self._decode(path).frames
        return np.concatenate([frames, later[..., None]], axis=3)

    def _decode(self, path: Path) -> video.Clip:
        """Decodes the clip, and keeps it where there is room."""
        entry = self.entry(path)
        clip = video.decode(path, self.grid, self.store_side, apart=self.apart)
        clip.frames.flags.writeable = False
        if clip.remark:
            # First: a process that is killed in between leaves no entry that has lost its remark.
            text = clip.remark.encode()
            cache.keep(_remark_file(entry), len(text), lambda file: file.write(text))
        if not entry.exists():  # without later pictures, perhaps
            cache.save(entry, clip.frames[..., :3])
        if self.apart:
            cache.save(self._later_entry(path), clip.frames[..., 3])
        return clip

    def predicted_bytes(self, path: Path) -> int:
        """About how many bytes the decoded clip takes, by its file's header; 0 where that says nothing."""
        width, height, frames = video.outline(path)
        scale = min(1.0, self.store_side / max(1, min(width, height)))
        channels = 3 + (self.apart > 0)
        return round(width * scale) * round(height * scale) * channels * min(frames or self.grid, self.grid)

    def build(self, paths: Sequence[Path], progress: Advance = silent) -> list[str]:
        """Decodes every clip that the store lacks, on all cores.

        Args:
            paths: The clips.
            progress: Called after each clip.

        Returns:
            A warning for every clip that ends before its declared length, and one where not all fit.

        Raises:
            InputError: Names every clip that gives no frames, and why.
        """

        def build(path: Path) -> tuple[str, str]:
            try:
                entry = self.entry(path)
                remark = _stored_remark(entry) if self.holds(path) else self._decode(path).remark
            except ClipError as error:
                return str(error), ""
            finally:
                progress()
            return "", f"{named(path)}: {remark}" if remark else ""

        lacking = [path for path in paths if not self.holds(path)]
        needed = sum(map(self.predicted_bytes, lacking))
        if needed > _WORTH_TELLING:
            logger.info(
                "decoding %d clips into %s, about %.1f GB", len(lacking), cache.folder(), needed / 1e9
            )
        with ThreadPoolExecutor(cpu_count()) as pool:
            outcomes = list(pool.map(build, paths))
        problems = [problem for problem, _ in outcomes if problem]
        if problems:
            raise InputError(
                *problems, "Mend these; or vidclf data check MANIFEST.csv --drop clean.csv leaves them out."
            )
        warnings = [warning for _, warning in outcomes if warning]
        left_out = sum(not self.holds(path) for path in lacking)
        if left_out:
            why = (
                f"do not fit into the cache: raise VIDCLF_CACHE_GB (now {cache.limit_bytes() / 1e9:.1f}), or "
                "clear it with vidclf data store --clear"
                if cache.writable()
                else f"cannot be kept, as {cache.folder()} cannot be written to: set VIDCLF_CACHE to another"
            )
            warnings.append(f"{left_out} of {len(paths)} clips {why}. They are decoded anew in every epoch.")
        return warnings


def _remark_file(entry: Path) -> Path:
    """What is wrong with a clip stands beside its entry; most have no such file."""
    return entry.with_suffix(".txt")


def _stored_remark(entry: Path) -> str:
    file = _remark_file(entry)
    return file.read_text(encoding="utf-8") if file.exists() else ""


@dataclass(frozen=True)
class ClipSet:
    """Labelled clips, as models see them.

    Attributes:
        paths: The video files.
        labels: Index into ``classes`` for each clip, shape (clips,); -1 where unknown.
        groups: Group of each clip, unique per clip where the manifest names none.
        classes: All classes of the data set, sorted.
        read: Grid of the clip at a path, uint8 (T, H, W, 3), or with later pictures (T, H, W, 4).
        store: Where the clips are kept, so that what is derived from them may be kept too; ``None``:
            everything is computed at each access.
    """

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    read: Callable[[Path], Frames]
    store: ClipStore | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def grid(self, index: int) -> Frames:
        """The stored frames of clip ``index``, uint8 (T, H, W, 3)."""
        grid = self.read(self.paths[index])
        return grid if grid.shape[-1] == 3 else grid[..., :3]

    def frames(self, index: int, count: int) -> Frames:
        """``count`` frames of clip ``index`` at the midpoints of equal parts, uint8 (count, H, W, 3)."""
        grid = self.grid(index)
        return grid[sampling.sample_indices(len(grid), count)]

    def pairs(self, index: int, count: int) -> Frames:
        """Of each different one of `frames` its luma and that of the later picture, uint8 (n, H, W, 2)."""
        grid = self.read(self.paths[index])
        chosen = grid[np.unique(sampling.sample_indices(len(grid), count))]
        if chosen.shape[3] != 4:
            raise ValueError("these clips were read without later pictures")
        return np.stack([video.luma(chosen[..., :3]), chosen[..., 3]], axis=3)

    @classmethod
    def of_split(cls, manifest: Manifest, split: Split, store: ClipStore) -> Self:
        return cls.of_entries(manifest.split(split), manifest.classes, store)

    @classmethod
    def of_entries(cls, entries: Sequence[Entry], classes: tuple[str, ...], store: ClipStore) -> Self:
        return cls(
            paths=tuple(entry.clip_path for entry in entries),
            labels=np.array([classes.index(entry.label) for entry in entries], dtype=np.int64),
            groups=tuple(entry.group or entry.name for entry in entries),
            classes=classes,
            read=store.read,
            store=store,
        )

    @classmethod
    def of_files(
        cls, paths: Iterable[Path], classes: tuple[str, ...], grid: int, store_side: int, apart: float = 0.0
    ) -> Self:
        """Unlabelled files, decoded at each access and never stored: what serving and latency see."""
        paths = tuple(paths)
        return cls(
            paths=paths,
            labels=np.full(len(paths), -1, dtype=np.int64),
            groups=tuple(path.as_posix() for path in paths),
            classes=classes,
            read=lambda path: video.decode(path, grid, store_side, apart=apart).frames,
        )
