"""The Triton kernels: in the interpreter, as code for a GPU, and on a GPU where there is one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CASES = Path(__file__).parent / "triton_cases.py"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: pip install triton"
)


def run(*arguments: str, **environment: str) -> str:
    """In a process of its own: Triton reads TRITON_INTERPRET when it is first imported."""
    found = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@needs_triton
def test_the_kernels_agree_with_the_cpu_in_the_interpreter():
    said = run("-m", "pytest", "-o", "addopts=", "-x", "-p", "no:cacheprovider", str(CASES), TRITON_INTERPRET="1")
    assert "passed" in said and "skipped" not in said


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_the_kernels_agree_with_the_cpu_on_a_gpu():
    assert "passed" in run("-m", "pytest", "-o", "addopts=", "-x", str(CASES), TRITON_INTERPRET="0")


PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from headsculpt.representations import hash_triton, march_triton, rasterise_triton

TYPES = {"x": "*fp32", "table": "*fp32", "direction": "*fp32", "grad": "*fp32", "out": "*fp32",
         "offsets": "*i64", "sizes": "*i32", "resolutions": "*i32", "scales": "*fp32", "dense": "*i32",
         "count": "i32", "active": "i32", "width": "i32", "height": "i32", "corners": "*i64",
         "depths": "*fp64", "boxes": "*i64", "indices": "*i64", "images": "*i64", "owners": "*i64",
         "locals_": "*i64", "keys": "*i64"}
MARCH = {name: "*fp32" for name in ("origins", "directions", "density", "box", "points", "distances", "widths")}
MARCH |= {"flags": "*u8", "skip": "*u8", "counts": "*i32", "rays": "i32", "size": "i32", "cap": "i32", "seed": "i64"}
MARCH |= {name: "fp32" for name in ("bound", "step", "to_cell", "cell", "per_step", "opaque", "explore", "wide")}
TYPES |= MARCH
TYPES |= {"snapped": "*i64", "state": "*i32", "vertices": "i32"}
FOLD = {"edges": "*i64", "opposite": "*i64", "clip": "*fp32", "out": "*i8"}

def ptx(kernel, capability, fusion=True, types=TYPES, **constants):
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": fusion}).asm["ptx"]

for smooth in (False, True):
    sizes = {"FEATURES": 2, "SMOOTH": smooth, "BLOCK": 256}
    ptx(hash_triton._gather_points, 80, **sizes)
    for directional in (False, True):
        ptx(hash_triton._gather, 80, DIRECTIONAL=directional, **sizes)
        assert "add.f32" in ptx(hash_triton._scatter, 80, DIRECTIONAL=directional, **sizes)
code = ptx(rasterise_triton._draw, 90, fusion=False, TILE=8, TILES=4)
assert "min.s64" in code
assert "fma.rn.f64" not in code and "mul.rn.f64" in code
ptx(rasterise_triton._choose, 80, types=TYPES | {"faces": "*i64", "out": "*i8"}, CULL=True, BLOCK=256)
assert "fma.rn.f32" not in ptx(rasterise_triton._fold, 80, fusion=False, types=TYPES | FOLD, BLOCK=256)
for jitter in (False, True):
    for place in (False, True):
        code = ptx(march_triton._march, 80, fusion=False, JITTER=jitter, PLACE=place, BLOCK=32)
        assert "fma.rn.f32" not in code and "div.full.f32" not in code
print("compiled")
"""


@needs_triton
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton's own compiler comes for Linux only")
def test_the_kernels_compile_for_gpus_and_depths_are_not_fused(tmp_path):
    """A fused multiply-add rounds once where the CPU rounds twice, and two back ends would see different triangles."""
    pytest.importorskip("triton.backends.nvidia", reason="this Triton has no NVIDIA compiler")
    assert "compiled" in run("-c", PROGRAM, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


def test_what_triton_cannot_do_here_is_named(monkeypatch):
    from headsculpt import devices
    from headsculpt.representations.encodings import HashGrid

    points = torch.rand(4, 3)
    encoding = HashGrid(levels=2, finest_resolution=32, log2_table=8, backend="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(devices, "importable", lambda module: module != "triton")
    with pytest.raises(ImportError, match="triton is not installed: pip install triton; backend='auto'"):
        encoding(points)
    monkeypatch.setattr(devices, "importable", lambda module: True)
    monkeypatch.setattr(devices.importlib, "import_module", lambda module: None)
    with pytest.raises(ValueError, match="triton takes CUDA tensors; points is on cpu; use backend='auto'"):
        encoding(points)
