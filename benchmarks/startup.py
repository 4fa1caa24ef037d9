"""How long commands take before they do anything: python benchmarks/startup.py [ROUNDS].

Of each: wall and CPU seconds, the least of some rounds in turn, and the CPU seconds as a ratio to those of
``import torch, torchvision`` in the same run. Trains two small models first, in a folder of its own.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[1] / "experiments" / "demo"
FLOOR = "import torch, torchvision"


def commands(folder: Path) -> dict[str, list[str]]:
    """What is timed, by its name."""
    clip = str(folder / "data" / "demo" / "new_clip.avi")
    svm, network = (trained(folder, name) for name in ("svm", "tiny2d"))
    key = ["--set", "model.mistyped=1"]
    vidclf = {
        "predict svm": ["predict", svm, clip],
        "predict tiny2d": ["predict", network, clip],
        "status": ["status"],
        "compare": ["compare"],
        "doctor": ["doctor"],
        "mistyped: train, file": ["train", "mistyped.toml"],
        "mistyped: train, key": ["train", str(EXPERIMENTS / "svm.toml"), *key],
        **{
            f"mistyped: {name}": [name, "mistyped", *more]
            for name, more in {
                "status": [],
                "compare": [],
                "confirm": [],
                "promote": ["--as", "x"],
                "predict": [clip],
                "bench": [],
                "export": ["--format", "onnx", "--to", "x.onnx"],
                "rollback": [],
                "init": [],
            }.items()
        },
    }
    timed = {name: ["-m", "vidclf", *words] for name, words in vidclf.items()}
    return {FLOOR: ["-c", FLOOR], "python -c pass": ["-c", "pass"], **timed}


def trained(folder: Path, name: str) -> str:
    """The folder of a model of the demo set."""
    epochs = ["--set", "train.epochs=2"] if name != "svm" else []
    command = [sys.executable, "-m", "vidclf", "train", str(EXPERIMENTS / f"{name}.toml"), *epochs, "--json"]
    ran = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return str(json.loads(ran.stdout)["model_dir"])


def seconds(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU time; the machine may be shared, which CPU time feels less."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=False, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for variable, name in {"STORE": "mlruns", "CACHE": "cache", "DATA": "data"}.items():
            os.environ[f"VIDCLF_{variable}"] = str(folder / name)
        demo = ["-m", "vidclf", "data", "demo", "data/demo", "--subjects", "6", "--takes", "1"]
        subprocess.run([sys.executable, *demo], cwd=folder, check=True, capture_output=True)
        every = commands(folder)
        taken = [
            {name: seconds(arguments, folder) for name, arguments in every.items()} for _ in range(rounds)
        ]
    least = {name: tuple(min(each[name][kind] for each in taken) for kind in (0, 1)) for name in every}
    for name, (wall, cpu) in least.items():
        print(f"{name:<28} {wall:6.2f} s  {cpu:6.2f} s of CPU  {cpu / least[FLOOR][1]:5.2f} x {FLOOR}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
