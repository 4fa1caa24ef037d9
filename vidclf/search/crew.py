"""The worker processes of a session, and what each of them may use."""

import os

from vidclf.config import InputError
from vidclf.search.study import StudyDefinition
from vidclf.search.worker import Worker


def hire(definition: StudyDefinition, count: int) -> list[Worker]:
    """Workers that share the cores, and the GPUs where so many are to share each."""
    threads = max(1, (os.cpu_count() or 1) // definition.file.workers)
    if definition.per_gpu is None:
        return [Worker(threads) for _ in range(count)]
    gpus = gpu_count()
    return [Worker(threads, place % gpus) for place in range(count)]


def gpu_count() -> int:
    """CUDA devices here.

    Raises:
        InputError: There is none.
    """
    import torch  # noqa: PLC0415

    count = torch.cuda.device_count()
    if count == 0:
        raise InputError("--per-gpu: torch finds no CUDA device here")
    return count
