"""Commands on finished models: ``predict``, ``bench``, ``export``, and ``ui``."""

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vidclf.cli.console import (
    FAILED,
    JsonList,
    JsonOption,
    StoreOption,
    print_json,
    print_table,
    progress_bar,
    say,
    tell,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vidclf.inference.benchmark import Bench
    from vidclf.inference.live import LivePrediction
    from vidclf.inference.predict import Prediction
    from vidclf.models.saved import SavedModel

_LIVE_WINDOW_S = 2.0
"""Seconds of a window of a camera by default."""
_LATE_S = 0.5
"""Lag from which on it is shown."""
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME@champion, NAME/3, a run id, or a folder.")
]


def _folder_of(model: str, store: Path | None) -> Path:
    from vidclf.registry.resolve import resolve_model
    from vidclf.runs.store import find_store

    return resolve_model(find_store(store), model)


def predict(
    model: ModelArgument,
    videos: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VIDEO]...", help="Video files, folders of them, quoted patterns, or URLs."),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            min=0.1, metavar="SECONDS", help="Label each window of a long video by itself [2 with --camera]."
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            min=0.05, metavar="SECONDS", help="Begin a window so often: they overlap [where the last ends]."
        ),
    ] = None,
    segments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Merge windows of one label; write when it begins and ends: .csv, .srt (subtitles), .json.",
        ),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(
            metavar="0|ADDRESS|-",
            help="Label what a camera sends now: 0 is the first of this machine, rtsp://… or tcp://… one "
            "in the network, - what comes in through a pipe. Ctrl-C ends it.",
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the predictions as CSV.")] = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Labels video files; a file that cannot be read is an error of its own, exit 1.

    A folder stands for all videos in it and below, a pattern as `"clips/**/*.mp4"` for what it matches.
    """
    _check_sources(videos, window, every, segments, camera, csv)
    folder = _folder_of(model, store)  # a misspelt name is answered before anything slow is loaded

    from vidclf.inference.predict import as_table, find_videos, predict_files
    from vidclf.models import load_model

    saved = load_model(folder)
    if camera is not None:
        _predict_live(saved, camera, window or _LIVE_WINDOW_S, every, segments, as_json=json_)
        return
    files = find_videos(videos or [])
    with progress_bar("Predicting") as progress:
        predictions = predict_files(saved, files, progress, window, every)
    windowed = window is not None
    if csv:
        from vidclf.data.tables import for_spreadsheets

        csv.parent.mkdir(parents=True, exist_ok=True)
        for_spreadsheets(as_table(predictions, windowed=windowed)).to_csv(csv, index=False)
    if segments:
        from vidclf.inference.segments import segments as merged
        from vidclf.inference.segments import write_segments

        write_segments(merged(predictions, saved.answer), segments)
    items = [prediction.as_dict(windowed=windowed) for prediction in predictions]
    if json_:
        print_json(items)
    else:
        _print_predictions(items, windowed)
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(FAILED)


def _check_sources(
    videos: Sequence[str] | None,
    window: float | None,
    every: float | None,
    segments: Path | None,
    camera: str | None,
    csv: Path | None,
) -> None:
    """What excludes or needs each other among the options of ``predict``."""
    from vidclf.exceptions import InputError

    problems = []
    if bool(videos) == (camera is not None):
        problems.append("give either VIDEO... or --camera" if videos else "name a VIDEO, or --camera")
    if camera is None and window is None:
        problems += [
            f"{option} merges or shifts windows; add --window SECONDS"
            for option, given in (("--every", every), ("--segments", segments))
            if given is not None
        ]
    length = window or (_LIVE_WINDOW_S if camera is not None else None)
    if every is not None and length is not None and every > length:
        problems.append(f"--every {every:g}: more than --window {length:g} would leave parts out")
    if segments is not None:
        from vidclf.inference.segments import WRITERS

        if segments.suffix.lower() not in WRITERS:
            problems.append(f"--segments {segments}: expected a name that ends in {', '.join(WRITERS)}")
    if csv is not None and camera is not None:
        problems.append("--csv is of files; with --camera write --segments FILE.csv")
    if problems:
        raise InputError(*problems)


def _predict_live(
    saved: "SavedModel",
    source: str,
    window: float,
    every: float | None,
    segments: Path | None,
    *,
    as_json: bool,
) -> None:
    """Prints each window as it is labelled, until the source ends or Ctrl-C."""
    from collections import deque

    from vidclf.inference.live import LivePrediction, predict_live
    from vidclf.inference.segments import segments as merged
    from vidclf.inference.segments import write_segments
    from vidclf.labels import plural

    last: LivePrediction | None = None
    listed = JsonList() if as_json else None

    def shown() -> "Iterator[Prediction]":
        nonlocal last
        try:
            for last in predict_live(saved, source, window, every):
                item = {**last.prediction.as_dict(windowed=True), "lag": last.lag, "lost": last.lost}
                if listed:
                    listed.add(item)
                else:
                    tell(_live_line(last))
                yield last.prediction
        except KeyboardInterrupt:
            return

    if segments:
        write_segments(merged(shown(), saved.answer), segments)
    else:
        deque(shown(), maxlen=0)
    if listed:
        listed.end()
    if last:
        skipped = plural(last.skipped, "window")
        say(f"{last.prediction.end:.0f} s seen, {plural(last.lost, 'frame')} lost, {skipped} left out")


def _live_line(live: "LivePrediction") -> str:
    from vidclf.labels import plural

    found = live.prediction
    surest = max(found.probabilities.values())
    late = f"   {live.lag:.1f} s late" if live.lag >= _LATE_S else ""
    lost = f"   {plural(live.lost, 'frame')} lost" if live.lost else ""
    span = f"{_seconds(found.start):>9} to {_seconds(found.end):>9}"
    return f"{span}   {found.label or 'not sure'}  {surest:.3f}{late}{lost}"


def _print_predictions(items: Sequence[Mapping[str, Any]], windowed: bool) -> None:
    from rich.table import Column

    times = [Column("start", justify="right"), Column("end", justify="right")] if windowed else []
    rows = []
    for item in items:
        likely = sorted(item["probabilities"].items(), key=lambda pair: -pair[1])
        chances = "  ".join(f"{name} {chance:.3f}" for name, chance in likely)
        spans = [_seconds(item[key]) for key in ("start", "end")] if windowed else []
        milliseconds = f"{item['seconds'] * 1000:.0f} ms"
        rows.append(
            (
                item["clip_path"],
                *spans,
                item["label"] or ("–" if item["error"] else "not sure"),
                item["error"] or chances,
                milliseconds,
            )
        )
    print_table(("clip", *times, "label", "probabilities", Column("time", justify="right")), rows)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def bench(
    model: ModelArgument,
    clip: Annotated[
        str | None, typer.Option(metavar="FILE", help="The clip to measure with; none: a rendered one.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Clips at once, for the throughput.")] = 8,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Latency, throughput, size and memory of a model on this machine, measured now and through no cache."""
    folder = _folder_of(model, store)  # a misspelt name is answered before anything slow is loaded

    from vidclf.inference.benchmark import bench as measure

    measured = measure(folder, clip, batch)
    if json_:
        print_json(measured.as_dict())
    else:
        _print_bench(measured)


def _timings(value: Mapping[str, float], prefix: str) -> tuple[str, str, str]:
    """Median, its interval and the 95th percentile as text; a slow model has too few runs for the last."""
    low, high, p95 = (value.get(f"{prefix}{name}_ms") for name in ("p50_low", "p50_high", "p95"))
    interval = "–" if low is None or high is None else f"{low:.2f} to {high:.2f}"
    return f"{value[f'{prefix}p50_ms']:.2f}", interval, "–" if p95 is None else f"{p95:.2f}"


def _print_bench(measured: "Bench") -> None:
    from rich.table import Column

    from vidclf.evaluation.ranking import disturbed

    value = measured.metrics
    tell(f"Clip: {measured.clip}")
    tell("  ".join(f"{name} {text}" for name, text in measured.conditions.items()))
    stages = {"tensor to probabilities": "", "file to label": "file_"}
    numbers = ("p50", "95 % interval", "p95")
    print_table(
        ("one clip, in ms", *(Column(name, justify="right") for name in numbers)),
        [(stage, *_timings(value, f"latency/{prefix}")) for stage, prefix in stages.items()],
    )
    tell(f"{value['latency/runs']:.0f} runs after warm-up")
    if busy := disturbed(value):
        say(f"warning: timed while {busy}: too high. Measure again when it is quiet.", "yellow")
    lines = {
        "throughput/clips_per_s": f"throughput, {value['throughput/batch']:.0f} at once: {{:.1f}} clips/s",
        "size/file_mb": "saved model: {:.2f} MiB",
        "size/parameters": "parameters: {:,.0f}",
        "cost/macs": "multiply-accumulates a clip: {:,.0f}",
        "cost/peak_memory_mb": "most memory of this process: {:,.0f} MiB",
        "cost/cuda_allocated_mb": "CUDA memory allocated: {:,.0f} MiB",
        "cost/cuda_reserved_mb": "CUDA memory reserved: {:,.0f} MiB",
    }
    for name, form in lines.items():
        if name in value:
            tell(form.format(value[name]))


def export(
    model: ModelArgument,
    form: Annotated[Literal["onnx", "pt2"], typer.Option("--format", help="What is written.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="The file; a JSON file about it goes beside it.")],
    clip: Annotated[
        str | None, typer.Option(metavar="FILE", help="The clip to compare on; none: a rendered one.")
    ] = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Writes a neural model as a graph that runs without vidclf, and compares it with the original."""
    folder = _folder_of(model, store)  # a misspelt name is answered before anything slow is loaded

    from vidclf.inference.benchmark import clip_or_rendered
    from vidclf.inference.export import TOLERANCE
    from vidclf.inference.export import export as write

    with clip_or_rendered(clip) as (path, words):
        exported = write(folder, form, to, path)
    if json_:
        print_json(exported.as_dict())
        return
    tell(f"{exported.file} and {exported.notes.name}, which says what it takes and gives")
    tell(
        f"Largest difference of a probability from the original: {exported.difference:.2g} in single "
        f"precision (allowed: {TOLERANCE:g}), {exported.served_difference:.2g} from what vidclf predicts here"
    )
    say(f"Compared on {words}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 5000,
    study: Annotated[
        str | None, typer.Option(metavar="STUDY", help="A study's name or file; none: the newest.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to serve on; others than 127.0.0.1 let others in.")
    ] = "127.0.0.1",
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Optuna's dashboard on the studies, in place of MLflow's UI.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Serves MLflow's UI on the store, with links to a study's ranked trials and charts."""
    from vidclf.runs.store import open_store

    opened_store = open_store(store)
    name = None
    if study is not None:
        from vidclf.search.record.names import name_of_study

        name = name_of_study(study, opened_store)

    if not is_loopback(host):
        say(
            f"warning: on {host} everyone who reaches port {port} can read, change and delete all runs and "
            "models: no password is asked for",
            "yellow",
        )
    if optuna:
        from vidclf.search.report.dashboard import serve_dashboard as serve
    else:
        from vidclf.tracking.ui import serve_ui as serve  # imports mlflow: some seconds
    serve(opened_store, port, _announce, study=name, host=host)


def _announce(link: str, others: Mapping[str, str]) -> None:
    say(link)
    for name, other in others.items():
        say(f"{name}:  {other}")
    say("Ctrl-C stops it")
