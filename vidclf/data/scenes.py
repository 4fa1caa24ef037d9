"""Groups clips that show one scene, with a threshold of the set's own, and finds copies of clips."""

import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from vidclf.data import cache, video
from vidclf.data.answers import Answers, certain_pairs
from vidclf.data.check import check_clips, decodable
from vidclf.data.fingerprints import VERSION as FINGERPRINTS
from vidclf.data.fingerprints import Fingerprint, fingerprint_of, needs_decoding
from vidclf.data.likeness import SharedView, cells_of, shared_views
from vidclf.data.manifest import Entry, content_digest, in_order, readable_digest
from vidclf.data.moments import same_moments
from vidclf.progress import Advance, silent

_CELL_WEIGHT, _FIRST_CELL, _MOST_CELLS = 0.8, 3, 5
"""What each place that two clips share beyond the first three adds to their likeness, five places at most."""
_COPY = 0.78
"""Agreement from which on two clips are copies; see `moments.same_moments`.

Of 240 copies of 20 real clips, made in twelve ways, 237 reach it (`benchmarks/leaks.py`). Takes of one
movement before one wall may reach it too.
"""
_SHARED = 0.1
"""Share of a copy's places that agree with the original's: few, where a camera moves and the copy was cut."""
_VERSION = 3
"""Raised with every change to what `_compared` gives, as that is kept on disk."""
_THRESHOLDS = np.arange(1.5, 10.0, 0.25)
"""Likeness of clips of one scene; which of them, the set decides."""
_FEWEST_SCENES = 3
"""Scenes that a set is divided into at least, where that is possible: fewer cannot be split in three."""
_SLACK = 0.09
"""How much worse than the best a lower threshold may divide the set and still be taken: it finds more."""
_CERTAIN = 1e4
"""Likeness of two clips that are known to be of one scene; negative: of two."""
_BORDERLINE = 0.5
"""Distance from the threshold up to which it is asked whether two scenes are one."""


@dataclass(frozen=True)
class Looks:
    """Fingerprints of the clips that can be read, and what they share.

    Attributes:
        readable: Place of each in the list that was asked for, in the order of their contents' digests.
        prints: Their fingerprints.
        views: Pairs that share places, by place in ``prints``.
        copies: Those of them that show the same moments.
    """

    readable: tuple[int, ...]
    prints: tuple[Fingerprint, ...]
    views: tuple[SharedView, ...]
    copies: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class AlikePair:
    """Two clips that stand for two scenes, the most alike of them, by their places in a list.

    Attributes:
        confidence: That the scenes are one, 0 to 1; 0.5 at the set's threshold.
        merged: Whether they were made one.
    """

    a: int
    b: int
    confidence: float
    merged: bool


@dataclass(frozen=True)
class Scenes:
    """How clips divide into scenes.

    Attributes:
        numbers: Of each clip's scene; one that cannot be read is alone.
        borderline: Scenes that were made one, or kept apart, only just; the least certain first.
    """

    numbers: tuple[int, ...]
    borderline: tuple[AlikePair, ...]


_memo: dict[tuple[str, ...], Looks] = {}


def looks_of(paths: Sequence[Path], progress: Advance = silent) -> Looks:
    """Looks at every clip that can be read; asked again for the same files, it remembers.

    What must be decoded is, in child processes with limits.

    Args:
        paths: The clips.
        progress: Called after each of them.
    """
    key = tuple(map(readable_digest, paths))
    if key not in _memo:
        unseen = {digest: path for digest, path in zip(key, paths, strict=True) if digest}
        unseen = {digest: path for digest, path in unseen.items() if needs_decoding(path)}
        for _ in range(len(paths) - len(unseen)):
            progress()
        seen = decodable(check_clips(list(unseen.values()), progress))
        unreadable = {"", *unseen} - set(map(content_digest, seen))
        readable = [index for index, digest in enumerate(key) if digest not in unreadable]
        readable.sort(key=lambda index: key[index])
        with ThreadPoolExecutor(cpu_count()) as pool:
            prints = tuple(pool.map(fingerprint_of, [paths[index] for index in readable]))
        views, moments = _compared(prints, [key[index] for index in readable])
        copies = tuple((view.a, view.b) for view, same in zip(views, moments, strict=True) if same >= _COPY)
        _memo.clear()
        _memo[key] = Looks(tuple(readable), prints, views, copies)
    return _memo[key]


def _compared(
    prints: Sequence[Fingerprint], digests: Sequence[str]
) -> tuple[tuple[SharedView, ...], list[float]]:
    """What the clips share, and how far each pair shows the same moments; -1 where it shares too little.

    Kept in a cache by the clips' contents: some hundreds of clips take some seconds.

    Args:
        prints: Their fingerprints.
        digests: Their contents, sorted: what a set shares is kept whatever the order of its clips.
    """
    entry = cache.entry("likeness", *digests, video.DECODER, FINGERPRINTS, _VERSION)
    rows = cache.load(entry)
    if rows is None:
        cells = [cells_of(each.points) for each in prints]
        with threadpool_limits(1):  # small products: threads would only wait for each other
            rows = np.array(
                [
                    [
                        *(view.a, view.b, view.cells, view.mirrored, *view.transform.ravel()),
                        same_moments(prints[view.a], prints[view.b], view)
                        if view.cells >= _SHARED * min(cells[view.a], cells[view.b])
                        else -1,
                    ]
                    for view in shared_views(prints)
                ]
            ).reshape(-1, 11)
        cache.save(entry, rows)
    views = tuple(
        SharedView(int(row[0]), int(row[1]), int(row[2]), row[4:10].reshape(2, 3), bool(row[3]))
        for row in rows
    )
    return views, rows[:, 10].tolist()


def copies_of(paths: Sequence[Path], progress: Advance = silent) -> list[int]:
    """Number of each clip's set of near-copies: encoded anew, cut, mirrored, marked or made from one."""
    looks = looks_of(paths, progress)
    pairs = [(looks.readable[a], looks.readable[b]) for a, b in looks.copies]
    return sets_of(pairs, len(paths))


def sets_of(pairs: Iterable[tuple[int, int]], count: int) -> list[int]:
    """Number of the set of each of ``count`` items: those of a pair are of one, chains too."""
    a, b = np.array(list(pairs), dtype=np.int64).reshape(-1, 2).T
    from scipy.sparse import coo_array  # here and below: a second to import, which few commands need
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    numbers: list[int] = connected_components(links, directed=False)[1].tolist()
    return numbers


def find_scenes(
    paths: Sequence[Path],
    known: NDArray[np.int8] | None = None,
    progress: Advance = silent,
) -> Scenes:
    """Divides clips into scenes.

    Two clips are alike by their colours, and by the places that they share. Clips are merged by their mean
    likeness, down to a threshold at which this set divides best: scenes as close in themselves and as far
    from each other as can be.

    Args:
        paths: The clips.
        known: What is certain of each pair, shape (n, n): 1 for one scene, -1 for two, 0 for nothing.
        progress: Called after each clip.
    """
    looks = looks_of(paths, progress)
    readable = list(looks.readable)
    numbers = np.arange(len(paths)) + len(paths)
    if len(looks.prints) < 2:
        return Scenes(tuple(numbers.tolist()), ())
    likeness = _likeness(looks)
    distances = np.exp(-likeness)
    if known is not None:
        certain = known[np.ix_(readable, readable)]
        likeness = np.where(certain == 0, likeness, certain * _CERTAIN)
    apart = _CERTAIN - likeness
    np.fill_diagonal(apart, 0)
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(apart, checks=False), "average")
    threshold = _best_threshold(tree, distances)
    numbers[readable] = fcluster(tree, _CERTAIN - threshold, "distance")
    borderline = [
        replace(pair, a=readable[pair.a], b=readable[pair.b])
        for pair in _borderline(tree, likeness, threshold)
    ]
    return Scenes(tuple(numbers.tolist()), tuple(borderline))


def _likeness(looks: Looks) -> NDArray[np.float64]:
    """Of all pairs, shape (n, n): minus the log of their colours' distance, and shared places."""
    colours = np.stack([each.colours for each in looks.prints]).astype(np.float64)
    likeness = -np.log(np.clip(1 - colours @ colours.T, 1e-3, 1))
    places = np.zeros_like(likeness)
    for view in looks.views:
        worth = _CELL_WEIGHT * min(view.cells - _FIRST_CELL, _MOST_CELLS)
        if not view.mirrored:
            places[view.a, view.b] = places[view.b, view.a] = worth
    return likeness + places


def nearer_to_second(paths: Sequence[Path], first: int, second: int) -> list[bool]:
    """Whether each clip is more alike to the second of two than to the first; who cannot be read is not.

    Args:
        paths: The clips.
        first: Place of the one.
        second: Of the other.
    """
    looks = looks_of(paths)
    likeness, row = _likeness(looks), {clip: row for row, clip in enumerate(looks.readable)}
    if not {first, second} <= row.keys():
        return [clip == second for clip in range(len(paths))]
    to_first, to_second = likeness[row[first]], likeness[row[second]]
    nearer = {clip for clip, place in row.items() if to_second[place] > to_first[place]}
    return [clip == second or (clip in nearer and clip != first) for clip in range(len(paths))]


def _best_threshold(tree: NDArray[np.float64], distances: NDArray[np.float64]) -> float:
    """The lowest threshold that divides the set about as well as any."""
    from scipy.cluster.hierarchy import fcluster

    rated = []
    for threshold in _THRESHOLDS:
        labels = fcluster(tree, _CERTAIN - threshold, "distance")
        if len(set(labels.tolist())) >= min(_FEWEST_SCENES, len(labels)):
            rated.append((float(threshold), _separation(distances, labels)))
    best = max((value for _, value in rated), default=0.0)
    return next((threshold for threshold, value in rated if value >= best - _SLACK), float(_THRESHOLDS[0]))


def _separation(distances: NDArray[np.float64], labels: NDArray[np.int32]) -> float:
    """How well scenes are separated: mean silhouette (Rousseeuw 1987) of all, plus that of those not alone.

    A clip alone in its scene counts 0 in the first, so that not all are left alone; it does not count in the
    second, so that not too many are merged.
    """
    scene = np.unique(labels, return_inverse=True)[1]
    members = np.eye(scene.max() + 1)[scene]
    sizes = members.sum(axis=0)
    clips = np.arange(len(scene))
    several = sizes[scene] > 1
    if len(sizes) < 2 or not several.any():
        return 0.0
    sums = (distances - np.diag(distances.diagonal())) @ members
    own = sums[clips, scene] / np.maximum(sizes[scene] - 1, 1)
    others = sums / sizes
    others[clips, scene] = np.inf
    nearest = others.min(axis=1)
    silhouettes = np.where(several, (nearest - own) / np.maximum(np.maximum(nearest, own), 1e-12), 0)
    return float(silhouettes.mean() + silhouettes[several].mean())


def _borderline(
    tree: NDArray[np.float64], likeness: NDArray[np.float64], threshold: float
) -> list[AlikePair]:
    """The merges near the threshold, each by the most alike clips of its two sides."""
    members: dict[int, list[int]] = {clip: [clip] for clip in range(len(likeness))}
    pairs = []
    for number, (left, right, height, _) in enumerate(tree, len(likeness)):
        one, other = members[int(left)], members[int(right)]
        members[number] = one + other
        margin = _CERTAIN - height - threshold
        if abs(margin) <= _BORDERLINE:
            block = likeness[np.ix_(one, other)]
            a, b = np.unravel_index(block.argmax(), block.shape)
            pairs.append(AlikePair(one[a], other[b], float(1 / (1 + np.exp(-2 * margin))), bool(margin >= 0)))
    return sorted(pairs, key=lambda pair: abs(pair.confidence - 0.5))


def group_by_scene(
    entries: Sequence[Entry],
    known: Sequence[Entry] = (),
    answers: Answers = MappingProxyType({}),
    progress: Advance = silent,
) -> list[Entry]:
    """The entries, sorted, with scenes as groups, numbered by their first clip.

    Args:
        entries: Clips of any group or none.
        known: Clips whose groups are scenes already: clips of such a scene get its group.
        answers: What a user has said of pairs of clips.
        progress: Called after each clip.
    """
    ordered = in_order(entries)
    paths = [entry.clip_path for entry in (*known, *ordered)]
    certain = certain_pairs(answers, paths)
    groups = np.array([entry.group for entry in known])
    certain[: len(known), : len(known)] = np.where(groups[:, None] == groups, 1, -1)
    numbers = find_scenes(paths, certain, progress).numbers
    theirs, ours = numbers[: len(known)], numbers[len(known) :]
    names = {scene: entry.group for entry, scene in zip(known, theirs, strict=True)}
    taken = set(names.values())
    unused = (name for number in itertools.count() if (name := f"scene{number:05}") not in taken)
    names |= dict(zip(dict.fromkeys(scene for scene in ours if scene not in names), unused, strict=False))
    return [
        replace(entry, group=names[scene], group_by="scenes")
        for entry, scene in zip(ordered, ours, strict=True)
    ]
