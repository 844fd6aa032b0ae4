"""Which devices and accelerated back ends this machine has."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


log = logging.getLogger(__name__)


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
        return importable(self.module)


BACK_ENDS = (
    BackEnd("torch", "torch", "reference of every operation", "pip install torch"),
    BackEnd("numba", "numba", "hash grid, visibility, meshing on a CPU", "pip install numba"),
    BackEnd(
        "triton",
        "triton",
        "hash grid, ray marching and visibility on CUDA (torch and numba otherwise)",
        "pip install triton",
        "comes with CUDA builds of torch on Linux; nothing is built by you",
    ),
    BackEnd(
        "tiny-cuda-nn",
        "tinycudann",
        "hash grid on CUDA, only when asked for",
        "pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch",
        "builds from source with the CUDA toolkit",
    ),
    BackEnd(
        "nvdiffrast",
        "nvdiffrast",
        "visibility, interpolation, antialiasing on CUDA, only when asked for",
        "pip install git+https://github.com/NVlabs/nvdiffrast",
        "its licence allows non-commercial use only; headsculpt never needs it",
    ),
    BackEnd(
        "kaolin",
        "kaolin",
        "marching tetrahedra, distance to a mesh on CUDA, only when asked for",
        "pip install kaolin -f https://nvidia-kaolin.s3.us-east-2.amazonaws.com/torch-<torch>_cu<CUDA>.html",
        "wheels are made for certain versions of torch and CUDA",
    ),
    BackEnd("xatlas", "xatlas", "UV atlas of exported meshes", "pip install xatlas"),
    BackEnd("imageio-ffmpeg", "imageio_ffmpeg", "turntables as .mp4", "pip install imageio-ffmpeg"),
)


def require(name: str, module: str = "") -> Any:
    """Imports an optional back end of :data:`BACK_ENDS`, or a module of it, on first use.

    Raises:
        ImportError: it is missing or fails to load; one sentence with the install line.
    """
    back_end = next(b for b in BACK_ENDS if b.name == name)
    if not importable(back_end.module):
        raise ImportError(f"{name} is not installed: {back_end.install}; backend='auto' works without it")
    try:
        return importlib.import_module(module or back_end.module)
    except Exception as error:  # noqa: BLE001  (a CUDA extension may fail at import in any way)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ImportError(
            f"{name} is installed but does not load ({first}): reinstall it for this torch with "
            f"{back_end.install}; backend='auto' works without it"
        ) from error


def importable(module: str) -> bool:
    """Whether a top-level module is there, without importing it."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return _found(module, importlib.util.find_spec)


@functools.lru_cache(maxsize=64)
def _found(module: str, find_spec: Any) -> bool:
    # Kept, as a look-up takes a millisecond. find_spec is part of the key because tests put others in its place.
    return find_spec(module) is not None


def triton_interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def check_on_cuda(name: str, **tensors: torch.Tensor) -> None:
    """ValueError if a tensor is not on CUDA, where this back end needs it."""
    for argument, tensor in tensors.items():
        if tensor.device.type != "cuda" and not (name == "triton" and triton_interpreted()):
            raise ValueError(
                f"{name} takes CUDA tensors; {argument} is on {tensor.device}; use backend='auto'"
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
    """The device in words: ``cpu (x86_64, 2 threads, without bfloat16)`` or ``cuda (NVIDIA ..., 80 GB)``."""
    import torch

    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"cuda ({properties.name}, {properties.total_memory / 2**30:.0f} GB)"
    bfloat16 = "with" if fast_bfloat16(device) else "without"
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads, {bfloat16} bfloat16)"


def fast_bfloat16(device: torch.device | str) -> bool:
    """Whether networks run faster in bfloat16 than in float32 there.

    Every CPU accepts bfloat16, but only those with instructions for it (AVX-512 BF16, AMX; BF16 of Arm) gain: without
    them torch falls back to loops that are twenty times slower than float32, which is what most laptops would get.
    """
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in ("x86_64", "amd64"):
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # neither is in torch 2.4
        return any(getattr(torch.cpu, name, lambda: False)() for name in asked)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False


def mixed(device: torch.device | str, enabled: bool = True) -> torch.autocast:
    """Autocast to bfloat16 where the device is faster in it, and where ``enabled``; float32 elsewhere."""
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled and fast_bfloat16(device))


def compiled(model: Any, device: torch.device | str) -> Any:
    """A module or function that is trained in steps of one shape, compiled on CUDA where that is possible, else itself.

    The mini networks are small: most of a step goes to normalisations, and to telling the GPU what to do.
    It takes Triton and a C compiler, which is logged where one is missing.
    """
    import torch

    if torch.device(device).type != "cuda":
        return model
    has_compiler = os.environ.get("CC") or any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    missing = ["Triton"] * (not importable("triton")) + ["a C compiler"] * (not has_compiler)
    if missing:
        log.info("training without torch.compile, which would be faster: it needs %s", " and ".join(missing))
        return model
    return torch.compile(model, dynamic=False)


def keep_freed_memory(device: torch.device | str) -> bool:
    """Has the C library keep the memory of freed arrays for the next ones, where the work is done on a CPU.

    A step makes and frees arrays of some 20 MB. glibc gives such memory back to the system at once, which then clears
    and maps it anew, page by page, in every step. It holds for the whole process, which keeps
    up to a few times what a step uses at once.

    Returns:
        whether the library took it: glibc does; others do nothing here.
    """
    import ctypes

    if getattr(device, "type", device) != "cpu" or not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    # From which size arrays are mapped on their own (32 MB is the most that every version takes), and how much free
    # memory is kept at the end of the heap.
    return bool(library.mallopt(mmap_threshold, 32 << 20)) and bool(library.mallopt(trim_threshold, (1 << 31) - 1))


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def back_ends_in_use(device: torch.device) -> str:
    """Which back end ``auto`` takes for each operation on this device, in a few words."""
    kernel = "numba" if importable("numba") else "torch"
    if device.type == "cuda" and importable("triton"):
        return "hash grid triton, visibility triton, shading torch"
    grid = "torch" if device.type == "cuda" else kernel
    return f"hash grid {grid}, visibility {kernel}, shading torch"
