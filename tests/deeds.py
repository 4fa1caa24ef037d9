"""What child processes in tests do; they import no more than this."""

import os
import time


def act(task: str) -> str:
    """Does what the task says."""
    match task:
        case "crash":
            os.abort()
        case "hang":
            time.sleep(60)
        case "flood":
            bytearray(2**31)
        case "raise":
            raise ValueError(task)
    return task
