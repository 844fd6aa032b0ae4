"""Which devices and accelerated back ends this machine has."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BackEnd:
    """A package that some operation can run on.

    Attributes:
        name: distribution.
        module: what is imported.
        serves: operations, in words.
        install: how to get it.
        note: licence or other remark; may be empty.
    """

    name: str
    module: str
    serves: str
    install: str
    note: str = ""

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


BACK_ENDS = (
    BackEnd("torch", "torch", "reference of every operation", "pip install torch"),
    BackEnd("numba", "numba", "hash grid, visibility, meshing on a CPU", "pip install numba"),
    BackEnd(
        "tiny-cuda-nn",
        "tinycudann",
        "hash grid on CUDA (torch otherwise)",
        "pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch",
        "builds from source with the CUDA toolkit",
    ),
    BackEnd(
        "nvdiffrast",
        "nvdiffrast",
        "visibility on CUDA, only when asked for",
        "pip install git+https://github.com/NVlabs/nvdiffrast",
        "its licence allows non-commercial use only; headsculpt never needs it",
    ),
    BackEnd("xatlas", "xatlas", "UV atlas of exported meshes", "pip install xatlas"),
    BackEnd("imageio-ffmpeg", "imageio_ffmpeg", "turntables as .mp4", "pip install imageio-ffmpeg"),
)


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ValueError: no such kind of device.
        RuntimeError: ``cuda`` where torch finds none; the message says how to go on.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {name!r}; expected one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        reason = (
            f"torch {torch.__version__} is a build for CPUs"
            if torch.version.cuda is None
            else "torch finds no CUDA device"
        )
        raise RuntimeError(f"--device cuda was asked for, but {reason}; use --device auto or --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The device in words: ``cpu (x86_64, 2 threads)`` or ``cuda (NVIDIA ..., 80 GB)``."""
    import torch

    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"cuda ({properties.name}, {properties.total_memory / 2**30:.0f} GB)"
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def back_ends_in_use(device: torch.device) -> str:
    """Which back end ``auto`` takes for each operation on this device, in a few words."""
    kernel = "numba" if importlib.util.find_spec("numba") else "torch"
    grid = kernel
    if device.type == "cuda":
        grid = "tiny-cuda-nn" if importlib.util.find_spec("tinycudann") else "torch"
    return f"hash grid {grid}, visibility {kernel}, shading torch"
