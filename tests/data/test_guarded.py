"""Decoding in a child process: what it gives, what it refuses, and what it survives."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from tests.clips import moving_square
from tests.deeds import act
from vidclf.data import video
from vidclf.data.container import DecodeLimits
from vidclf.data.guarded import Child, GuardedDecoder, Limits
from vidclf.exceptions import ClipError, GuardError, InputError, ItemError


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    video.write_video(path, moving_square("right", np.random.default_rng(0), frames=20, size=64))
    return path


@pytest.mark.slow
def test_a_child_does_one_task_after_another() -> None:
    child = Child(act, time_limit_s=20, memory_limit_mb=512)
    for task in ("a", "b"):
        child.give(task)
        assert child.take() == task
    child.stop()
    assert not child.lives


@pytest.mark.parametrize(
    ("task", "how", "text"),
    [
        ("crash", "crash", "the decoder crashed: SIGABRT"),
        ("raise", "crash", "the decoder crashed: exit code 1"),
        ("hang", "time", "over the limit of 1 s"),
        ("flood", "memory", "more memory than the limit"),
    ],
)
@pytest.mark.slow
def test_a_child_says_how_a_task_failed(task: str, how: str, text: str) -> None:
    child = Child(act, time_limit_s=1, memory_limit_mb=256)
    child.give(task)
    with pytest.raises(GuardError, match=text) as caught:
        child.take()
    assert caught.value.how == how
    assert child.lives == (how == "memory")
    child.stop()


@pytest.mark.slow
def test_the_kernel_ends_a_child_whose_parent_does_not_come_back() -> None:
    child = Child(act, time_limit_s=0.5, memory_limit_mb=256)
    child.give("hang")
    assert child._process.wait(timeout=10) == -signal.SIGALRM


@pytest.mark.slow
def test_a_limit_of_the_surroundings_is_kept() -> None:
    """As a batch system sets it: a hard limit on the address space, which no process may raise."""
    code = (
        "import resource; from tests.deeds import act; from vidclf.data.guarded import Child;"
        "resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36));"
        "child = Child(act, time_limit_s=20, memory_limit_mb=2**20); child.give('done'); print(child.take());"
        "print(resource.prlimit(child._process.pid, resource.RLIMIT_AS)); child.stop()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["done", str((2**36, 2**36))], done.stderr


@pytest.mark.slow
def test_frames_are_those_of_plain_decoding(clip: Path) -> None:
    decoder = GuardedDecoder(grid=8, store_side=32, limits=Limits())
    for _ in range(2):
        np.testing.assert_array_equal(decoder.decode(clip), video.decode(clip, 8, 32).frames)
    decoder.close()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(pixels=64 * 64 - 1), "64 x 64 pixels are over the limit of 4,095"),
        (Limits(frames=19), "over the limit of 19 frames"),
        (Limits(file_mb=0.003), "over the limit of 0.003 MiB"),
    ],
)
@pytest.mark.slow
def test_a_clip_beyond_a_limit_is_refused_and_the_next_is_not(
    clip: Path, limits: Limits, reason: str
) -> None:
    decoder = GuardedDecoder(8, 32, limits)
    with pytest.raises(ClipError) as caught:
        decoder.decode(clip)
    assert (caught.value.verdict, caught.value.reason) == ("oversized", reason)
    small = clip.with_name("small.mp4")
    video.write_video(small, np.zeros((2, 16, 16, 3), dtype=np.uint8))
    assert decoder.decode(small).shape == (2, 16, 16, 3)
    decoder.close()


@pytest.mark.slow
def test_pictures_that_a_model_would_blow_up_are_refused(clip: Path) -> None:
    decoder = GuardedDecoder(8, 32, Limits())
    flat, fair = clip.with_name("flat.avi"), clip.with_name("fair.avi")
    video.write_video(flat, np.zeros((2, 2, 34, 3), dtype=np.uint8))
    video.write_video(fair, np.zeros((2, 2, 32, 3), dtype=np.uint8))
    with pytest.raises(ClipError, match="oversized: one side of the pictures is over 16 times the other"):
        decoder.decode(flat)
    assert decoder.decode(fair).shape == (2, 2, 32, 3)
    with pytest.raises(ClipError, match="unreadable: No such file"):
        decoder.decode(clip.with_name("gone.avi"))
    decoder.close()


def decoders() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "guarded" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_a_decoder_that_died_is_replaced(clip: Path) -> None:
    decoder = GuardedDecoder(8, 32, Limits())
    [first] = decoders()
    first.kill()
    with pytest.raises(ClipError, match="the decoder crashed: SIGKILL"):
        decoder.decode(clip)
    assert decoder.decode(clip).shape == (8, 32, 32, 3)
    assert decoders() != [first]
    decoder.close()
    assert decoders() == []


@pytest.fixture
def endless(clip: Path) -> Path:
    """A clip that takes until `end`."""
    path = clip.with_name("endless.avi")
    os.mkfifo(path)
    return path


def end(endless: Path, busy: Sequence[Future[bool]]) -> None:
    """Ends the clip for those who read it, also for one that has yet to open it."""
    while not all(done.done() for done in busy):
        with contextlib.suppress(OSError):  # nobody reads it now
            os.close(os.open(endless, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.01)


def unreadable(decoder: GuardedDecoder, path: Path) -> bool:
    with pytest.raises(ClipError, match="unreadable"):
        decoder.decode(path)
    return True


@pytest.mark.slow
def test_a_few_slow_clips_do_not_hold_up_the_others(clip: Path, endless: Path) -> None:
    decoder = GuardedDecoder(8, 32, Limits(decoders=4))
    with ThreadPoolExecutor() as threads:
        busy = [threads.submit(unreadable, decoder, endless) for _ in range(3)]
        assert decoder.decode(clip).shape == (8, 32, 32, 3)
        while len(decoders()) < 4:
            time.sleep(0.01)
        assert decoder.decode(clip).shape == (8, 32, 32, 3)
        assert not any(done.done() for done in busy)
        end(endless, busy)
        assert all(done.result() for done in busy)
    decoder.close()


@pytest.mark.slow
def test_what_waits_counts_as_its_own_time_and_too_many_do_not_wait(clip: Path, endless: Path) -> None:
    decoder = GuardedDecoder(8, 32, Limits(decoders=1, queue=1))
    with ThreadPoolExecutor() as threads:
        busy = threads.submit(unreadable, decoder, endless)
        time.sleep(0.2)
        with pytest.raises(ItemError, match=r"busy: no decoder became free in 0\.1 s"):
            decoder.decode(clip, seconds=0.1)
        waits = threads.submit(decoder.decode, clip)
        time.sleep(0.2)
        with pytest.raises(ItemError, match="busy: 1 clips wait for a decoder already"):
            decoder.decode(clip)
        end(endless, [busy])
        assert busy.result()
        assert waits.result().shape == (8, 32, 32, 3)
    decoder.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_files_go_with_their_process_however_it_ends(number: signal.Signals) -> None:
    code = (
        "import time; from vidclf.data.guarded import GuardedDecoder, Limits; "
        "decoder = GuardedDecoder(8, 32, Limits()); print(decoder.scratch, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        scratch = Path(process.stdout.readline().strip())
        assert scratch.is_dir()
        process.send_signal(number)
    end = time.monotonic() + 20
    while scratch.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not scratch.exists()


@pytest.mark.slow
def test_a_clip_that_takes_too_long_is_one_error(endless: Path) -> None:
    decoder = GuardedDecoder(8, 32, Limits(seconds=0.05))
    started = time.monotonic()
    with pytest.raises(ClipError, match=r"oversized: over the limit of 0\.05 s"):
        decoder.decode(endless)
    assert time.monotonic() - started < 20
    decoder.close()


def test_a_playlist_opens_no_other_file(clip: Path) -> None:
    """FFmpeg reads HLS playlists by their content, and then whatever file or host they name."""
    secret = clip.with_name("secret.ts")
    with av.open(str(secret), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            picture = np.zeros((32, 32, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert video.decode(secret, 8, 32).frames.shape == (8, 32, 32, 3)
    playlist = clip.with_name("innocent.mp4")
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:0.4,\n"
    playlist.write_text(f"{head}{secret}\n#EXT-X-ENDLIST\n")
    concat = clip.with_name("innocent.avi")
    concat.write_text(f"ffconcat version 1.0\nfile {secret.name}\n")
    for path in (playlist, concat):
        with pytest.raises(ClipError, match="unreadable"):
            video.decode(path, 8, 32)


def test_limits_come_from_the_environment() -> None:
    assert Limits.of_environment({}) == Limits()
    assert Limits.of_environment({"VIDCLF_SERVE_SECONDS": "2.5", "VIDCLF_SERVE_FRAMES": "10"}) == Limits(
        seconds=2.5, frames=10
    )
    for text in ("0", "-1", "many", "inf", "nan"):
        with pytest.raises(InputError, match="VIDCLF_SERVE_PIXELS = "):
            Limits.of_environment({"VIDCLF_SERVE_PIXELS": text})


def test_bounds_hold_from_the_first_pixel_beyond() -> None:
    DecodeLimits(pixels=100, frames=3).check(Path("x"), 10, 10, 3)
    for args in ((10, 11, 1), (10, 10, 4)):
        with pytest.raises(ClipError, match="oversized"):
            DecodeLimits(pixels=100, frames=3).check(Path("x"), *args)
