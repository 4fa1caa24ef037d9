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
from vidclf.data.pictures import Frames, Grid, StoredFrames, compressed, compressed_grey, most_bytes, rgb_of
from vidclf.data.remote import named
from vidclf.exceptions import ClipError, InputError
from vidclf.progress import Advance, silent

logger = logging.getLogger(__name__)

_WORTH_TELLING = 10**9
"""Bytes from which on a build's size is told beforehand."""


@dataclass(frozen=True)
class ClipStore:
    """Decoded clips on disk, one memory-mapped file each, shared by epochs, trials and processes.

    It fills up to the caches' limit and then stays as it is; what does not fit is
    decoded at each access.

    Attributes:
        grid: Instants a clip, see `video.decode`.
        store_side: Upper limit of the short side in pixels.
        apart: Seconds to the later pictures that are kept too, see `video.Clip`; 0: none are.
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

    def read(self, path: Path) -> Grid:
        """The clip's grid, with ``apart`` its later pictures as a fourth channel.

        Raises:
            ClipError: As `video.decode`.
        """
        kept = self.kept(path)
        return self._decode(path).frames if kept is None else kept

    def kept(self, path: Path) -> StoredFrames | None:
        """The clip's grid, where the store has it."""
        entries = [self.entry(path), *([self._later_entry(path)] if self.apart else [])]
        contents = [content for entry in entries if (content := cache.load(entry, "r")) is not None]
        if len(contents) < len(entries):
            return None
        try:
            return StoredFrames(*contents)
        except ValueError:  # a foreign file
            for entry in entries:
                cache.discard(entry)
            return None

    def keep(self, path: Path, clip: video.Clip) -> bool:
        """Keeps a decoded clip; whether there was room for it."""
        entry = self.entry(path)
        if clip.remark:
            # First: a process that is killed in between leaves no entry that has lost its remark.
            text = clip.remark.encode()
            cache.keep(_remark_file(entry), len(text), lambda file: file.write(text))
        if len(compressed(clip.pictures[:1])) * len(clip.pictures) > cache.free_bytes():
            return False  # to compress all of it would be for nothing
        # A clip may be there without later pictures.
        kept = entry.exists() or cache.save(entry, compressed(clip.pictures))
        if clip.later:
            kept &= cache.save(self._later_entry(path), compressed_grey(clip.later))
        return kept

    def _decode(self, path: Path) -> video.Clip:
        clip = video.decode(path, self.grid, self.store_side, apart=self.apart)
        self.keep(path, clip)
        return clip

    def predicted_bytes(self, path: Path) -> int:
        """The most bytes that the clip will take, by its file's header; 0 where that says nothing."""
        width, height, frames = video.outline(path)
        scale = min(1.0, self.store_side / max(1, min(width, height)))
        if not width:
            return 0
        size = round(height * scale), round(width * scale)
        return most_bytes(min(frames or self.grid, self.grid), *size, later=self.apart > 0)

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
                "decoding %d clips into %s, at most %.1f GB", len(lacking), cache.folder(), needed / 1e9
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
        read: Grid of the clip at a path, with later pictures where the store has them.
        store: Where the clips are kept, so that what is derived from them may be kept too; ``None``:
            everything is computed at each access.
    """

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    read: Callable[[Path], Grid]
    store: ClipStore | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def grid(self, index: int) -> Grid:
        """The stored frames of clip ``index``, RGB."""
        return rgb_of(self.read(self.paths[index]))

    def frames(self, index: int, count: int) -> Frames:
        """``count`` frames of clip ``index`` at the midpoints of equal parts, uint8 (count, H, W, 3)."""
        grid = self.grid(index)
        return grid[sampling.sample_indices(len(grid), count)]

    def pairs(self, index: int, count: int) -> Frames:
        """Grey values of each different one of `frames`, and of its later picture, uint8 (n, H, W, 2).

        Raises:
            ValueError: The clips were read without later pictures.
        """
        grid = self.read(self.paths[index])
        if grid.shape[3] != 4:
            raise ValueError("these clips were read without later pictures")
        chosen = grid[np.unique(sampling.sample_indices(len(grid), count))]
        first = np.stack([video.grey(np.ascontiguousarray(frame)) for frame in chosen[..., :3]])
        return np.stack([first, chosen[..., 3]], axis=3)

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
