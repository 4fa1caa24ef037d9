"""Features: what they say of known pictures and motion."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage.feature import graycomatrix, graycoprops

from vidclf.data.pictures import Frames
from vidclf.models.features import FEATURES, compute_features
from vidclf.models.pixels import Pixels

LENGTHS = {
    "hog": 2592,
    "flow": 483,
    "hof": 432,
    "mbh": 864,
    "color": 459,
    "lbp": 944,
    "difference": 136,
    "history": 78,
    "moments": 72,
    "glcm": 160,
    "gabor": 64,
    "edges": 40,
    "tracks": 88,
    "change": 8,
    "pose": 467,
}
BLOCKS = {"hof": 9, "mbh": 9, "color": 51, "lbp": 59}
"""Values of one histogram, of the features that are histograms alone."""
SHARES = 3 * 4 * 4 * 9


NOTHING_MOVES = ("difference", "history", "change")


def vector(name: str, clip: Frames) -> np.ndarray:
    return compute_features(clip, [name], body=a_body(len(clip)))[name]


def a_body(frames: int) -> np.ndarray:
    """Landmarks that are seen, each with a speed of its own."""
    times = np.linspace(0, 1, frames)[:, None, None]
    places = np.random.default_rng(3).uniform(0.2, 0.8, (2, 1, 33, 4))
    body = places[0] + 0.2 * times * places[1]
    return np.concatenate([body[..., :2], np.ones((frames, 33, 2))], axis=-1).astype(np.float32)


def moving_square(step: tuple[int, int], frames: int = 8, size: int = 112) -> Frames:
    """A textured square that moves (right, down) by ``step`` pixels a frame, through the centre."""
    texture = np.random.default_rng(0).integers(120, 255, (32, 32, 3), dtype=np.uint8)
    clip = np.full((frames, size, size, 3), 40, dtype=np.uint8)
    for time in range(frames):
        left, top = (round(size / 2 - 16 + step[axis] * (time - (frames - 1) / 2)) for axis in (0, 1))
        clip[time, top : top + 32, left : left + 32] = texture
    return clip


def direction_shares(clip: Frames) -> np.ndarray:
    """Mean over cells of the flow histogram: 8 directions, then standing still."""
    return vector("flow", clip)[:SHARES].reshape(-1, 9).mean(axis=0)


@pytest.mark.parametrize(("step", "direction"), [((4, 0), 0), ((0, 4), 2), ((-4, 0), 4), ((0, -4), 6)])
def test_flow_falls_into_the_direction_of_motion(step: tuple[int, int], direction: int) -> None:
    moving = direction_shares(moving_square(step))[:8]
    assert moving.argmax() == direction
    assert moving[direction] > 0.7 * moving.sum()


def test_the_strength_of_flow_is_the_step() -> None:
    def strengths(step: int) -> np.ndarray:
        return vector("flow", moving_square((step, 0)))[SHARES : SHARES + 48].reshape(3, 4, 4)[1]

    for step in (2, 4, 6):
        # Below the step, as the flow fades out over the flat background beside the square.
        assert 0.6 * step / 112 < strengths(step)[1:3, 1:3].mean() <= step / 112
    assert strengths(4)[1:3, 1:3].mean() > 4 * strengths(4)[0].mean()


def test_hof_is_the_histograms_of_flow() -> None:
    clip = moving_square((4, 0))
    np.testing.assert_array_equal(vector("hof", clip), vector("flow", clip)[:SHARES])


@pytest.mark.parametrize("frames", [1, 5])
def test_a_still_clip_has_no_motion(frames: int) -> None:
    still = moving_square((0, 0), frames)
    for name in ("hof", "mbh"):
        assert vector(name, still).reshape(-1, 9).mean(axis=0) == pytest.approx([0] * 8 + [1])
    assert vector("tracks", still)[:11].tolist() == [0] * 8 + [1, 0, 0]
    for values in (vector("flow", still)[SHARES:], *(vector(name, still) for name in NOTHING_MOVES)):
        assert not values.any()


def warped(matrix: Callable[[float], np.ndarray], frames: int = 8, size: int = 112) -> Frames:
    """A texture larger than the frame under a map from the frame's centre to the texture's by time."""
    noise = np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)
    texture = cv2.resize(noise, (400, 400), interpolation=cv2.INTER_CUBIC)
    clip = []
    for time in np.arange(frames) - (frames - 1) / 2:
        linear, shift = matrix(time)[:, :2], matrix(time)[:, 2]
        offset = 200 + shift - linear @ [size / 2, size / 2]
        there = np.column_stack([linear, offset])
        clip.append(cv2.warpAffine(texture, there, (size, size), flags=cv2.WARP_INVERSE_MAP))
    return np.stack(clip).astype(np.uint8)


def panning(time: float) -> np.ndarray:
    return np.array([[1.0, 0.0, -4 * time], [0.0, 1.0, 0.0]])


def growing(time: float) -> np.ndarray:
    return np.array([[0.93**time, 0.0, 0.0], [0.0, 0.93**time, 0.0]])


def turning(time: float) -> np.ndarray:
    """Clockwise on the screen."""
    sine, cosine = np.sin(0.08 * time), np.cos(0.08 * time)
    return np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0]])


RIGHT, DOWN, UP, UNIFORM = 0, 2, 6, 8


@pytest.mark.parametrize(
    ("motion", "rightwards", "downwards"),
    # What turns clockwise moves right the further up it is, and down the further right.
    [(panning, UNIFORM, UNIFORM), (growing, RIGHT, DOWN), (turning, UP, RIGHT)],
)
def test_motion_boundaries_are_the_growth_of_motion(
    motion: Callable[[float], np.ndarray], rightwards: int, downwards: int
) -> None:
    shares = vector("mbh", warped(motion)).reshape(2, -1, 9).mean(axis=1)
    assert shares.argmax(axis=1).tolist() == [rightwards, downwards]
    if motion is panning:
        assert shares[:, UNIFORM] == pytest.approx(1, abs=0.01)
    else:
        assert (shares[:, UNIFORM] < 0.35).all()


def test_hof_of_a_pan_is_its_direction() -> None:
    assert vector("hof", warped(panning)).reshape(-1, 9)[:, RIGHT] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("color", "code"),
    [
        ((255, 0, 0), 34 + 1 + 1),
        ((255, 0, 16), 34 + 1 + 1),
        ((0, 255, 0), 34 + 1 + 3 * 2 + 1),
        ((0, 0, 255), 34 + 1 + 5 * 2 + 1),
        ((60, 0, 0), 0 + 1 + 1),
        ((255, 128, 128), 34 + 1 + 0),
        ((0, 0, 0), 0),
        ((128, 128, 128), 17),
        ((255, 250, 255), 34),
    ],
)
def test_a_color_is_one_bin(color: tuple[int, int, int], code: int) -> None:
    clip = np.full((3, 32, 32, 3), color, dtype=np.uint8)
    expected = np.zeros((9, 51))
    expected[:, code] = 1
    np.testing.assert_array_equal(vector("color", clip).reshape(9, 51), expected)


def test_colors_have_a_place_but_no_time() -> None:
    clip = np.zeros((4, 33, 33, 3), dtype=np.uint8)
    clip[:, :11, 22:] = (255, 0, 0)
    clip[:1, 11:22, 11:22] = (0, 0, 255)
    shares = vector("color", clip).reshape(3, 3, 51)
    assert shares[0, 2, 36] == 1
    assert shares[1, 1, [0, 46]].tolist() == [0.75, 0.25]
    assert (shares[..., 0].ravel() == 1).sum() == 7
    np.testing.assert_array_equal(vector("color", clip[::-1]), shares.ravel())


def test_binary_patterns_of_flat_pictures_and_slopes() -> None:
    flat = np.full((2, 64, 64, 3), 77, dtype=np.uint8)
    slope = flat + np.arange(64, dtype=np.uint8)[:, None]
    clips = [flat, slope, slope[:, :, ::-1], slope.swapaxes(1, 2), slope.swapaxes(1, 2)[:, ::-1]]
    shares = np.stack([vector("lbp", clip).reshape(16, 59) for clip in clips])
    codes = shares.argmax(axis=2)
    assert (shares.max(axis=2) == 1).all()
    assert (codes == codes[:, :1]).all()
    assert len(set(codes[:, 0])) == 5
    assert codes[0, 0] == 57  # every neighbour is as bright as the centre
    assert 58 not in codes


def test_binary_patterns_ignore_brightness() -> None:
    dark = np.random.default_rng(0).integers(0, 100, (2, 48, 48, 1), dtype=np.uint8).repeat(3, axis=3)
    np.testing.assert_array_equal(vector("lbp", dark), vector("lbp", dark + 100))


def arrow(left: int, top: int, step: int = 2, scale: int = 1) -> Frames:
    """A bright bar that grows to the right over a dark picture, so that its shape has no symmetry."""
    clip = np.zeros((6, 128, 128, 3), dtype=np.uint8)
    for time in range(6):
        right = left + scale * (10 + step * time)
        clip[time, top : top + scale * (4 + time), left:right] = 255
    return clip


def test_moments_of_motion_do_not_see_place_or_size() -> None:
    moments = vector("history", arrow(10, 10))[:14]
    assert (moments[[0, 1, 7, 8]] > 10).all()
    assert vector("history", arrow(70, 50))[:14] == pytest.approx(moments, rel=1e-6)
    # Pixels are not infinitely small.
    assert vector("history", arrow(10, 10, scale=3))[[0, 1, 7, 8]] == pytest.approx(
        moments[[0, 1, 7, 8]], rel=0.02
    )
    assert vector("history", arrow(10, 10, step=6))[:2] != pytest.approx(moments[:2], rel=0.02)


def test_history_says_when_a_place_last_changed() -> None:
    clip = np.zeros((5, 64, 64, 3), dtype=np.uint8)
    clip[1:, :8, :8] = 255
    clip[2:, :8, 8:16] = 26
    clip[3:, 8:16, :8] = 25
    clip[4:, 56:, 56:] = 255
    places = vector("history", clip)[14:].reshape(8, 8)
    expected = np.zeros((8, 8))
    expected[0, 0], expected[0, 1], expected[7, 7] = 1 / 4, 2 / 4, 1
    assert places == pytest.approx(expected)


def test_difference_finds_place_and_rhythm() -> None:
    blinking = np.zeros((17, 64, 64, 3), dtype=np.uint8)
    blinking[2::4, :8, 8:16] = 255
    blinking[3::4, :8, 8:16] = 255
    values = vector("difference", blinking)
    means, spectrum = values[:64].reshape(8, 8), values[128:]
    assert np.argwhere(means > 0).tolist() == [[0, 1]]
    assert means[0, 1] == pytest.approx(0.5)
    assert spectrum.argmax() + 1 == 8


def pictures(seed: int, frames: int, size: int, coarse: int) -> Frames:
    """Noise in patches of ``coarse`` pixels."""
    edge = -(-size // coarse)
    noise = np.random.default_rng(seed).integers(0, 256, (frames, edge, edge, 3), dtype=np.uint8)
    return noise.repeat(coarse, axis=1).repeat(coarse, axis=2)[:, :size, :size]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 12),
    size=st.sampled_from([21, 28, 35, 42, 49, 63, 64, 77, 112]),
    coarse=st.sampled_from([1, 4, 16]),
)
@pytest.mark.slow
def test_every_feature_keeps_its_promises(seed: int, frames: int, size: int, coarse: int) -> None:
    clip = pictures(seed, frames, size, coarse)
    before = clip.copy()
    for name, values in compute_features(clip, list(FEATURES), body=a_body(frames)).items():
        assert values.shape == (LENGTHS[name],), name
        assert values.dtype == np.float64, name
        assert np.isfinite(values).all(), name
        if FEATURES[name].histogram:
            assert (values >= 0).all(), name
            assert values.reshape(-1, BLOCKS[name]).sum(axis=1) == pytest.approx(1, abs=1e-5), name
    assert (clip == before).all()


def test_the_histograms_are_known() -> None:
    assert {name for name, spec in FEATURES.items() if spec.histogram} == set(BLOCKS)
    assert set(FEATURES) == set(LENGTHS)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("name", FEATURES)
def test_the_smallest_frames_work(name: str, value: int) -> None:
    assert np.isfinite(vector(name, np.full((2, 16, 16, 3), value, dtype=np.uint8))).all()


def test_flow_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Solver:
        def calc(self, before: np.ndarray, after: np.ndarray, step: np.ndarray) -> None:
            calls.append(1)

    monkeypatch.setattr(cv2.DISOpticalFlow, "create", lambda _: Solver())
    compute_features(moving_square((1, 0), frames=5), ["flow", "hof", "mbh"])
    assert len(calls) == 4


FINGERPRINTS = {
    "hog": (1, 0.3595),
    "flow": (1, -2.1197),
    "hof": (1, -2.1342),
    "mbh": (1, -0.4921),
    "color": (1, 0.5227),
    "lbp": (1, 0.5752),
    "difference": (1, -0.07353),
    "history": (1, 9.8835),
    "moments": (1, -6.014),
    "glcm": (1, -88.062),
    "gabor": (1, 6.8595),
    "edges": (1, -43.635),
    "tracks": (1, 0.30839),
    "change": (1, -0.16929),
    "pose": (1, -2.2545),
}
"""Version and a weighted sum of one clip's values. Where our code changes the sum, raise the version too."""


@pytest.mark.parametrize("name", FEATURES)
def test_changed_values_have_another_version(name: str) -> None:
    values = vector(name, np.concatenate([warped(growing, 4), moving_square((4, 0), 4)]))
    fingerprint = values @ np.cos(np.arange(len(values)))
    assert FEATURES[name].version == FINGERPRINTS[name][0]
    assert fingerprint == pytest.approx(FINGERPRINTS[name][1], rel=0.01)


def test_flow_of_pairs_does_not_depend_on_how_far_frames_are_apart() -> None:
    def pairs(every: int) -> Frames:
        """Of each so many-th frame and the next one of a clip."""
        grey = Pixels(moving_square((2, 0), frames=25)).grey
        return np.stack([grey[:-1:every], grey[1::every]], axis=-1)

    clip = moving_square((2, 0), frames=25)
    by_pairs, by_frames = (
        [compute_features(clip[::every], ["flow"], given)["flow"][-3] for every, given in settings]
        for settings in ([(1, pairs(1)), (4, pairs(4))], [(1, None), (4, None)])
    )
    assert by_pairs[1] == pytest.approx(by_pairs[0], rel=0.1)
    assert by_frames[1] > 2 * by_frames[0]


def test_a_last_frame_that_is_its_own_later_picture_is_left_out() -> None:
    grey = Pixels(moving_square((4, 0))).grey
    pairs = np.stack([grey, grey[[*range(1, 8), 7]]], axis=-1)
    np.testing.assert_array_equal(
        Pixels(moving_square((4, 0)), pairs).flow, Pixels(moving_square((4, 0))).flow
    )
    still = Pixels(moving_square((4, 0), 1), np.stack([grey[:1]] * 2, axis=-1)).flow
    assert (still.shape, still.any()) == ((1, 112, 112, 2), False)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("name", ["hof", "color", "difference"])
def test_a_pyramid_is_the_clip_and_its_halves(name: str, frames: int) -> None:
    clip = moving_square((4, 0), frames)
    pyramid = compute_features(clip, [name], pyramid=True)[name]
    half = -(-frames // 2)
    parts = [vector(name, part) for part in (clip, clip[:half], clip[frames - half :])]
    np.testing.assert_array_equal(pyramid, np.concatenate(parts))


def placed(left: int, top: int, pan: int = 0) -> Frames:
    """A textured square that moves to the right before a smooth background, which a camera pans over."""
    background = np.random.default_rng(1).integers(0, 90, (24, 48), dtype=np.uint8)
    background = cv2.resize(background, (240, 112), interpolation=cv2.INTER_CUBIC)
    texture = np.random.default_rng(0).integers(120, 255, (32, 32), dtype=np.uint8)
    clip = np.stack([background[:, 40 + pan * time :][:, :112] for time in range(6)])
    for time, picture in enumerate(clip):
        picture[top : top + 32, left + (3 - pan) * time :][:, :32] = texture
    return np.repeat(clip[..., None], 3, axis=3)


@pytest.mark.parametrize("name", ["flow", "hof"])
def test_followed_motion_is_the_same_wherever_it_is_and_however_the_camera_moves(name: str) -> None:
    def distances(**how: bool) -> list[float]:
        here, *others = (
            compute_features(clip, [name], **how)[name]
            for clip in (placed(16, 10), placed(52, 66), placed(16, 10, pan=2), placed(16, 10, pan=-2))
        )
        return [float(np.abs(here - other).mean()) for other in others]

    followed, fixed = distances(follow=True), distances()
    assert len(fixed) == 3
    assert all(own < 0.5 * whole for own, whole in zip(followed, fixed, strict=True))


def test_what_is_followed_lies_in_the_frame_and_may_be_nothing() -> None:
    moved = Pixels(placed(52, 66), follow=True).flow
    assert (moved.shape[0], moved.shape[3]) == (5, 2)
    assert 32 <= min(moved.shape[1:3]) <= max(moved.shape[1:3]) < 80
    corner = Pixels(moving_square((0, 0))[:, :16, :16], follow=True)
    assert (corner.flow.shape, corner.flow.any()) == ((7, 16, 16, 2), False)
    with_pairs = np.stack([corner.grey, corner.grey], axis=-1)
    assert not Pixels(corner.frames, with_pairs, follow=True).flow.any()


@pytest.mark.parametrize("name", FEATURES)
def test_a_mirrored_feature_is_the_mean_of_both_images_and_the_same_for_either(name: str) -> None:
    clip = placed(8, 40)[:3, ::2, ::2]
    pairs = np.stack([Pixels(clip).grey[:-1], Pixels(clip).grey[1:]], axis=-1)
    images = [(clip, pairs), (clip[:, :, ::-1], pairs[:, :, ::-1])]
    alone = [compute_features(image, [name], moved)[name] for image, moved in images]
    both = [compute_features(image, [name], moved, mirror=True)[name] for image, moved in images]
    np.testing.assert_array_equal(both[0], (alone[0] + alone[1]) / 2)
    np.testing.assert_array_equal(both[0], both[1])


def expected(name: str, frame: np.ndarray, following: np.ndarray) -> list[float]:
    """The values of one frame as its library gives them."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    match name:
        case "moments":
            flat = frame.reshape(-1, 3) / 255
            return [*flat.mean(axis=0), *flat.var(axis=0), *stats.skew(flat)]
        case "glcm":
            matrix = graycomatrix(grey, [1], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], 256, True, True)
            names = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
            return [value for name in names for value in graycoprops(matrix, name)[0]]
        case "gabor":
            kernels = [cv2.getGaborKernel((21, 21), 5, np.pi / 4 * i, 10, 0.5, 0) for i in range(4)]
            responses = [cv2.filter2D(grey / 255, cv2.CV_64F, kernel) for kernel in kernels]
            return [value for response in responses for value in (response.mean(), response.var())]
        case "edges":
            edges = cv2.Canny(grey, 100, 200)
            contours = cv2.findContours(edges, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
            areas = [cv2.contourArea(contour) / 112**2 for contour in contours]
            lengths = [cv2.arcLength(contour, True) / 112 for contour in contours]
            return [np.mean(edges == 255), len(contours), np.mean(areas), max(areas), np.mean(lengths)]
        case "tracks":  # all that moves goes four pixels to the right
            return [1, 0, 0, 0, 0, 0, 0, 0, 0, 4 / 112, 4 / 112]
    assert name == "change"
    return [float(cv2.absdiff(grey, cv2.cvtColor(following, cv2.COLOR_RGB2GRAY)).mean() / 255)]


@pytest.mark.parametrize("name", ["moments", "glcm", "gabor", "edges", "tracks", "change"])
def test_values_are_the_librarys_own_and_their_statistics_over_time(name: str) -> None:
    clip = moving_square((4, 0))
    per_frame = {"tracks": 7, "change": 7}.get(name, 8)
    rows = np.array([expected(name, clip[i], clip[min(i + 1, 7)]) for i in range(per_frame)])
    steps, slopes = np.abs(np.diff(rows, axis=0)), np.gradient(rows, axis=0)
    ends = [rows.mean(axis=0), rows.std(axis=0), rows.min(axis=0), rows.max(axis=0)]
    over_time = [*ends, steps.mean(axis=0), steps.std(axis=0), slopes.mean(axis=0), slopes.std(axis=0)]
    tolerance = 0.03 if name == "tracks" else 1e-6
    np.testing.assert_allclose(vector(name, clip), np.concatenate(over_time), rtol=1e-4, atol=tolerance)
