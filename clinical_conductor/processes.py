"""Whether another process of this machine still lives: what a killed one left behind may be cleared away."""

from __future__ import annotations

import os


def is_alive(process_id: int) -> bool:
    """Whether a process of this machine has that number; one of another user's counts, too."""
    if process_id <= 0:
        return False
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
