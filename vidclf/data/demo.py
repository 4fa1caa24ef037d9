"""A small rendered data set: a stick figure does pull-ups, push-ups and punches, laid out like UCF-101.

Every clip also holds one pose still for a while, drawn alike for all classes,
so that a person may hang from the bar and then do push-ups: the pose of one
frame suggests a class, what moves decides it.
"""

import colorsys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidclf.data import video
from vidclf.data.importing import import_clips
from vidclf.data.pictures import Frames
from vidclf.progress import Advance, silent

Pose = NDArray[np.float64]
"""Joints in body heights, shape (15, 3): forward, up from the floor, to the person's left."""
_Colour = tuple[int, int, int]

CLASSES = ("PullUps", "PushUps", "Punch")
WIDTH, HEIGHT, RATE = 160, 120, 25

_MARGIN = 12
"""Pixels painted beyond each edge, for the shaking camera."""
_SUBPIXEL_BITS = 4
_BAR_HEIGHT = 1.22
_UPPER_ARM, _FOREARM, _THIGH, _SHIN = 0.18, 0.18, 0.25, 0.26
_HEAD, _NECK, _PELVIS = 0, 1, 2
_BONES = (
    *((1, 2), (3, 4), (9, 10)),
    *((3, 5), (5, 7), (4, 6), (6, 8)),
    *((9, 11), (11, 13), (10, 12), (12, 14)),
)
"""Pairs of joints: head, neck, pelvis, then left and right shoulder, elbow, hand, hip, knee, foot."""
_LEFT_RIGHT = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])


@dataclass(frozen=True)
class _Subject:
    """What the clips of one group share.

    Attributes:
        backdrop: The empty room, uint8 (height, width, 3) with margins.
        body: Colour of the figure.
        size: Body height in pixels.
        girth: Thickness of the limbs in pixels.
        place: Where the figure stands, in pixels of the backdrop (x, y).
        tilt: How far the camera looks down, as vertical pixels a pixel of depth.
        period: Frames a repetition.
        shake: Standard deviation of the camera's steps in pixels.
    """

    backdrop: Frames
    body: _Colour
    size: float
    girth: float
    place: tuple[float, float]
    tilt: float
    period: float
    shake: float


def demo_clip_count(subjects: int, takes: int) -> int:
    """How many clips `render_demo` renders."""
    return len(CLASSES) * subjects * takes


def render_demo(
    folder: Path,
    subjects: int = 10,
    takes: int = 2,
    seed: int = 0,
    progress: Advance = silent,
) -> list[Path]:
    """Renders ``folder/PullUps/v_PullUps_g03_c02.avi`` and so on.

    A clip depends on its name and ``seed`` alone.

    Args:
        folder: Created where it does not exist; clips of the same name are replaced.
        subjects: Groups: persons, each in a room of their own.
        takes: Clips of each person and class.
        seed: Another seed gives other persons, rooms and takes.
        progress: Called after each clip.

    Returns:
        The clips, sorted.
    """
    paths = []
    for number in range(1, subjects + 1):
        subject = _subject(np.random.default_rng([seed, number]))
        for class_index, label in enumerate(CLASSES):
            (folder / label).mkdir(parents=True, exist_ok=True)
            for take in range(1, takes + 1):
                generator = np.random.default_rng([seed, number, class_index, take])
                path = folder / label / f"v_{label}_g{number:02}_c{take:02}.avi"
                video.write_video(path, _render(label, subject, generator), RATE)
                paths.append(path)
                progress()
    return sorted(paths)


def render_demo_set(folder: Path, subjects: int, takes: int, seed: int, progress: Advance = silent) -> Path:
    """Renders the data set, its manifest, and ``new_clip.avi``: a punch of a person who is in no split.

    Args:
        folder: Created where it does not exist.
        subjects: See `render_demo`.
        takes: See `render_demo`.
        seed: See `render_demo`.
        progress: Called after each of the set's clips.

    Returns:
        The manifest.
    """
    render_demo(folder, subjects, takes, seed, progress)
    stranger = np.random.default_rng([seed, subjects + 1])
    video.write_video(folder / "new_clip.avi", _render("Punch", _subject(stranger), stranger), RATE)
    manifest = folder / "manifest.csv"
    import_clips([folder], manifest, classes=CLASSES, shares="53,18,29", seed=seed, group_scope="dataset")
    return manifest


def _subject(generator: np.random.Generator) -> _Subject:
    dark_room = bool(generator.random() < 0.5)
    floor = HEIGHT + _MARGIN - generator.uniform(6, 16)
    hue, saturation = generator.random(), generator.uniform(0.2, 0.9)
    return _Subject(
        backdrop=_backdrop(generator, floor, dark_room),
        body=_colour(
            hue, saturation, generator.uniform(0.8, 1.0) if dark_room else generator.uniform(0, 0.3)
        ),
        size=generator.uniform(56, 72),
        girth=generator.uniform(2.5, 6),
        place=(_MARGIN + WIDTH * generator.uniform(0.38, 0.62), floor),
        tilt=generator.uniform(0.08, 0.3),
        period=generator.uniform(17, 28),
        shake=generator.uniform(0, 0.7),
    )


def _colour(hue: float, saturation: float, value: float) -> _Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _backdrop(generator: np.random.Generator, floor: float, dark: bool) -> Frames:
    """A room: wall with a gradient and a texture, floor, furniture."""
    width, height = WIDTH + 2 * _MARGIN, HEIGHT + 2 * _MARGIN
    low, high = (0.12, 0.4) if dark else (0.55, 0.95)

    def paint() -> _Colour:
        return _colour(generator.random(), generator.uniform(0.0, 0.6), generator.uniform(low, high))

    room = np.full((height, width, 3), paint(), dtype=np.uint8)
    horizon = round(floor - generator.uniform(8, 18))
    for _ in range(generator.integers(2, 6)):
        left, top = int(generator.integers(-10, width - 10)), int(generator.integers(0, horizon - 20))
        right, bottom = left + int(generator.integers(8, 50)), top + int(generator.integers(8, 60))
        cv2.rectangle(room, (left, top), (right, min(bottom, horizon)), paint(), thickness=-1)
    room[horizon:] = paint()
    for _ in range(generator.integers(0, 3)):
        left, tall = int(generator.integers(0, width - 20)), int(generator.integers(8, 40))
        cv2.rectangle(room, (left, horizon + 4 - tall), (left + 14, horizon + 4), paint(), thickness=-1)
    coarse = generator.normal(0, 1, (int(generator.integers(4, 40)), int(generator.integers(4, 50)), 3))
    texture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR) * generator.uniform(2, 12)
    left, right = generator.uniform(-25, 25, 2)
    light = np.linspace(left, right, width)[:, None]
    lit: Frames = np.clip(room + texture + light, 0, 255).astype(np.uint8)
    return lit


def _render(label: str, subject: _Subject, generator: np.random.Generator) -> Frames:
    """One clip, uint8 (T, HEIGHT, WIDTH, 3)."""
    has_bar = label == "PullUps" or generator.random() < 0.75
    yaw = np.radians(generator.choice([0, 90, 180, 270]) + generator.uniform(20, 70))
    poses = _performance(label, subject.period, has_bar, generator)
    room = subject.backdrop.copy()
    if has_bar:
        _draw_bar(room, subject, yaw)
    shift = np.array(subject.place) + generator.normal(0, [5, 1.5]) - subject.place
    steps = generator.normal(0, subject.shake, (len(poses), 2))
    frames = np.empty((len(poses), HEIGHT, WIDTH, 3), dtype=np.uint8)
    offset = np.clip(shift, -_MARGIN / 2, _MARGIN / 2)
    for frame, pose, step in zip(frames, poses, steps, strict=True):
        picture = room.copy()
        _draw_figure(picture, pose, subject, yaw)
        offset = np.clip(0.9 * offset + step, -_MARGIN + 1, _MARGIN - 1)
        camera = np.array([[1, 0, offset[0] - _MARGIN], [0, 1, offset[1] - _MARGIN]])
        frame[:] = cv2.warpAffine(picture, camera, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    return frames


def _performance(
    label: str, period: float, has_bar: bool, generator: np.random.Generator
) -> NDArray[np.float64]:
    """The poses of one clip, shape (T, 15, 3): repetitions, with a still pose before or after them."""
    count = int(generator.integers(50, 76))
    times = np.arange(count)
    stills = [_stand(), _raise(), _guard(), _push_up(0.0)] + ([_pull_up(0.0)] if has_bar else [])
    still = stills[generator.integers(len(stills))]
    share = generator.uniform(0.3, 0.48)
    active = 1 / (1 + np.exp(-(times - share * count) / 1.5))
    if generator.random() < 0.5:
        active = active[::-1]
    phases = times / (period * generator.uniform(0.85, 1.15)) + generator.random()
    swaying = generator.normal(0, 0.008, 3) * np.sin(times / generator.uniform(6, 12))[:, None]
    action = {"PullUps": _pull_up, "PushUps": _push_up, "Punch": _punch}[label]
    poses = [
        (1 - weight) * still + weight * action(phase) for weight, phase in zip(active, phases, strict=True)
    ]
    return np.array(poses) + swaying[:, None]


def _pose(  # noqa: PLR0917  (joints from the neck down)
    neck: tuple[float, float],
    pelvis: tuple[float, float],
    hands: NDArray[np.float64],
    feet: NDArray[np.float64],
    elbows_to: tuple[float, float, float],
    twist: float = 0.0,
) -> Pose:
    """Joints from the trunk's ends (forward, up) and the left and right hand and foot (forward, up, left).

    ``elbows_to`` is where the left elbow points, the right one mirrored;
    knees point forward. ``twist`` turns the shoulders about the spine.
    """
    neck_at, pelvis_at = np.array([*neck, 0.0]), np.array([*pelvis, 0.0])
    spine = (neck_at - pelvis_at) / np.linalg.norm(neck_at - pelvis_at)
    head = neck_at + 0.12 * spine
    across = _LEFT_RIGHT * [1, 1, np.cos(twist)] + [[-np.sin(twist), 0, 0], [np.sin(twist), 0, 0]]
    shoulders, hips = neck_at - 0.03 * spine + 0.11 * across, pelvis_at + 0.06 * _LEFT_RIGHT
    poles = np.array([elbows_to, elbows_to]) * [[1, 1, 1], [1, 1, -1]]
    knees_to = np.array([spine[1], -spine[0], 0.0])
    elbows = [
        _bent(shoulder, hand, _UPPER_ARM, _FOREARM, pole)
        for shoulder, hand, pole in zip(shoulders, hands, poles, strict=True)
    ]
    knees = [_bent(hip, foot, _THIGH, _SHIN, knees_to) for hip, foot in zip(hips, feet, strict=True)]
    return np.array([head, neck_at, pelvis_at, *shoulders, *elbows, *hands, *hips, *knees, *feet])


def _bent(
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    first: float,
    second: float,
    pole: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The middle joint of a limb of two bones, bent towards ``pole``; straight where the end is too far."""
    span = end - start
    reach = max(float(np.linalg.norm(span)), 1e-6)
    direction = span / reach
    along = (first**2 - second**2 + reach**2) / (2 * reach)
    bend = np.sqrt(max(first**2 - along**2, 0.0))
    sideways = pole - (pole @ direction) * direction
    joint: NDArray[np.float64] = start + along * direction + bend * sideways / np.linalg.norm(sideways)
    return joint


def _pair(forward: float, up: float, apart: float) -> NDArray[np.float64]:
    """A left and a right joint, shape (2, 3)."""
    return np.array([[forward, up, apart], [forward, up, -apart]])


def _stand() -> Pose:
    return _pose((0, 0.82), (0, 0.5), _pair(0.03, 0.47, 0.16), _pair(0, 0, 0.08), (-1, 0, 0.3))


def _raise() -> Pose:
    return _pose((0, 0.82), (0, 0.5), _pair(0.02, 1.14, 0.17), _pair(0, 0, 0.08), (0, 0, 1))


def _guard() -> Pose:
    return _punch(0.0, reach=0.0)


def _punch(phase: float, reach: float = 1.0) -> Pose:
    """Left and right straight punches in turn, one of each a phase of 1."""
    left = reach * np.clip(np.sin(2 * np.pi * phase), 0, 1) ** 0.7
    right = reach * np.clip(-np.sin(2 * np.pi * phase), 0, 1) ** 0.7
    hands = _pair(0.15, 0.77, 0.08)
    hands += np.array([[left], [right]]) * ([0.3, 0.03, 0.0] - _LEFT_RIGHT * 0.06)
    feet = np.array([[0.13, 0, 0.08], [-0.13, 0, -0.08]])
    lean = 0.04 * (left + right)
    return _pose((lean, 0.8), (0, 0.48), hands, feet, (0, -1, 0.4), twist=0.6 * float(right - left))


def _pull_up(phase: float) -> Pose:
    """From the dead hang to the chin above the bar and back."""
    lift = 0.3 * _rise(phase)
    neck, pelvis = _BAR_HEIGHT - 0.34 + lift, _BAR_HEIGHT - 0.66 + lift
    feet = _pair(-0.12 - 0.2 * lift, pelvis - 0.46, 0.05)
    return _pose((-0.02, neck), (-0.02, pelvis), _pair(0, _BAR_HEIGHT, 0.19), feet, (-0.3, -0.5, 1))


def _push_up(phase: float) -> Pose:
    """From straight arms to the chest near the floor and back."""
    height = 0.34 - 0.23 * _rise(phase)
    toes = np.array([-0.5, 0.03])
    body = np.array([np.sqrt(0.82**2 - (height - toes[1]) ** 2), height - toes[1]])
    neck, pelvis = toes + body, toes + 0.61 * body
    return _pose(
        (neck[0], neck[1]),
        (pelvis[0], pelvis[1]),
        _pair(0.29, 0, 0.16),
        _pair(toes[0], toes[1], 0.06),
        (-0.6, 0.3, 1),
    )


def _rise(phase: float) -> float:
    """0 at whole phases, 1 halfway between them, smooth."""
    return float(0.5 - 0.5 * np.cos(2 * np.pi * phase))


def _projected(points: NDArray[np.float64], subject: _Subject, yaw: float) -> NDArray[np.float64]:
    """Pixels and depth of points in body heights, shape (n, 3); the depth grows away from the camera."""
    forward, up, left = points.T
    across = forward * np.cos(yaw) + left * np.sin(yaw)
    depth = left * np.cos(yaw) - forward * np.sin(yaw)
    x = subject.place[0] + subject.size * across
    y = subject.place[1] - subject.size * (up + subject.tilt * depth)
    return np.stack([x, y, depth], axis=1)


def _draw_bar(room: Frames, subject: _Subject, yaw: float) -> None:
    ends = np.array([[0, 0, 0.62], [0, _BAR_HEIGHT, 0.62], [0, _BAR_HEIGHT, -0.62], [0, 0, -0.62]])
    corners = _projected(ends, subject, yaw)[:, :2]
    colour = (95, 95, 105) if room.mean() > 100 else (140, 140, 150)
    cv2.polylines(room, [_fixed(corners)], False, colour, 2, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_figure(picture: Frames, pose: Pose, subject: _Subject, yaw: float) -> None:
    """Far limbs first and darker."""
    joints = _projected(pose, subject, yaw)
    points, depths = _fixed(joints[:, :2]), joints[:, 2]
    for start, end in sorted(_BONES, key=lambda bone: -depths[list(bone)].sum()):
        shade = 1 - 0.9 * np.clip((depths[start] + depths[end]) / 2 + 0.05, 0, 0.4)
        colour = tuple(round(float(shade) * channel) for channel in subject.body)
        thick = subject.girth * (1.5 if (start, end) == (_NECK, _PELVIS) else 1)
        cv2.line(
            picture,
            points[start].tolist(),
            points[end].tolist(),
            colour,
            round(thick),
            cv2.LINE_AA,
            _SUBPIXEL_BITS,
        )
    radius = round(0.075 * subject.size * 2**_SUBPIXEL_BITS)
    cv2.circle(picture, points[_HEAD].tolist(), radius, subject.body, -1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Pixels in OpenCV's fixed-point form, for positions between pixels."""
    fixed: NDArray[np.int32] = np.round(points * 2**_SUBPIXEL_BITS).astype(np.int32)
    return fixed
