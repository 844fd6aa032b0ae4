"""Sculpts a 3D head from a sentence, and exports it for games and films."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# torch and numba each keep a pool of OpenMP threads; with the default policy the idle one spins for milliseconds and
# takes the cores from the other. Where it never spins (libgomp's count of 0), each of torch's many small operations
# wakes sleeping threads, and a head takes a third longer: 30,000 rounds are a third of a millisecond. Read when the
# pools start, so it is set here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

if TYPE_CHECKING:
    from headsculpt.avatar import Avatar
    from headsculpt.config import SculptConfig, load_config

__version__ = "0.24.0"
__all__ = ["Avatar", "SculptConfig", "__version__", "load_config"]

# Looked up on first use: `import headsculpt` must not cost what torch and diffusers cost.
_HOME = {
    "Avatar": "headsculpt.avatar",
    "SculptConfig": "headsculpt.config",
    "load_config": "headsculpt.config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'headsculpt' has no attribute {name!r}; it has {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
