"""Package metadata; tools are configured in pyproject.toml.

``guidance`` and ``representations`` at the root are links into the package: only ``headsculpt*`` is installed.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = re.search(r'^__version__ = "(.+)"', (root / "headsculpt/__init__.py").read_text(encoding="utf-8"), re.M)
if version is None:
    raise SystemExit("headsculpt/__init__.py names no __version__")

test = ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6", "ruff>=0.6", "mypy>=1.10", "peft>=0.13"]

setup(
    name="headsculpt",
    version=version.group(1),
    description="From a sentence to a 3D head avatar, by score distillation, on any machine",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["headsculpt", "headsculpt.*"]),
    package_data={
        "headsculpt": [
            "py.typed", "presets/*.yaml", "priors/mini/*", "priors/mini/*/*", "evaluation/weights/*",
            "studio/page/*",
        ],
    },
    install_requires=[
        "torch>=2.4",
        "numpy>=1.26",
        "numba>=0.60",
        "diffusers>=0.30",
        "transformers>=4.45",
        "tokenizers>=0.20",
        "safetensors>=0.4.3",
        "accelerate>=0.33",
        "trimesh>=4.4",
        "scipy>=1.11",
        "networkx>=3",
        "xatlas>=0.0.9",
        "fast-simplification>=0.1.7",
        "opencv-python-headless>=4.9",
        "pillow>=10",
        "imageio-ffmpeg>=0.5",
        "omegaconf>=2.3",
        "PyYAML>=6",
        "typer>=0.12",
        "rich>=13",
    ],
    extras_require={
        "test": test,
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5"],
        "studio": [],  # `headsculpt studio` needs no more than the rest
        "ray": ["ray>=2.30"],
        "vsd": ["peft>=0.13"],
        # A CUDA build of torch is all that a GPU needs; the back ends that are built from source, and whose
        # licences differ, are named by `headsculpt doctor` and never installed for you.
        "gpu": [],
    },
    entry_points={"console_scripts": ["headsculpt = headsculpt.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Graphics :: 3D Modeling",
    ],
)
