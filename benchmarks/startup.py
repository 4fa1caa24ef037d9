"""How long commands take before they do anything, beside Python's own start: python benchmarks/startup.py."""

import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "vidclf --help": ["-m", "vidclf", "--help"],
    "vidclf tune --help": ["-m", "vidclf", "tune", "--help"],
    "import optuna": ["-c", "import optuna"],
    "import mlflow": ["-c", "import mlflow"],
    "import torchvision": ["-c", "import torchvision"],
}
RUNS = 5


def seconds(arguments: list[str]) -> float:
    """Median of some runs, the files being in the page cache."""
    durations = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        durations.append(time.perf_counter() - started)
    return sorted(durations[1:])[RUNS // 2]


if __name__ == "__main__":
    floor = seconds(COMMANDS["python -c pass"])
    for name, arguments in COMMANDS.items():
        taken = seconds(arguments)
        print(f"{name:<20} {taken:6.3f} s  {taken / floor:6.1f} x python")
