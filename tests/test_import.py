"""What ``import headsculpt`` costs and what it offers."""

import subprocess
import sys

import pytest

import headsculpt


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_import_loads_nothing_heavy():
    program = (
        "import sys, headsculpt\n"
        "bad = {'torch', 'numpy', 'diffusers', 'transformers', 'numba', 'trimesh'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    run(program)


def test_idle_threads_spin_briefly_unless_the_user_says_otherwise():
    said = "import os; {}import headsculpt; print(os.environ['GOMP_SPINCOUNT'], os.environ['OMP_WAIT_POLICY'])"
    mine = "os.environ.update(GOMP_SPINCOUNT='7', OMP_WAIT_POLICY='ACTIVE'); "
    theirs = "os.environ.pop('GOMP_SPINCOUNT', 0); os.environ.pop('OMP_WAIT_POLICY', 0); "
    assert run(said.format(theirs)).split() == ["30000", "PASSIVE"]
    assert run(said.format(mine)).split() == ["7", "ACTIVE"]


def test_the_avatar_loads_no_diffusion_model():
    program = (
        "import sys; from headsculpt import Avatar\n"
        "bad = {'diffusers', 'transformers', 'nvdiffrast', 'tinycudann', 'kaolin'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    run(program)


def test_names_are_found_and_unknown_ones_say_what_there_is():
    from headsculpt.avatar import Avatar

    assert headsculpt.Avatar is Avatar
    assert "Avatar" in dir(headsculpt)
    with pytest.raises(AttributeError, match="has no attribute 'Avatr'; it has Avatar"):
        headsculpt.Avatr  # noqa: B018


def test_only_the_package_itself_is_installed():
    from pathlib import Path

    from setuptools import find_packages

    root = Path(headsculpt.__file__).parent.parent
    if not (root / "setup.py").is_file():
        pytest.skip("headsculpt runs from an installation")
    found = find_packages(str(root), include=["headsculpt", "headsculpt.*"])
    assert all(name.split(".")[0] == "headsculpt" for name in found)
    assert {"headsculpt.guidance", "headsculpt.representations", "headsculpt.export"} <= set(found)


def test_the_changelog_starts_with_this_version():
    from pathlib import Path

    path = Path(headsculpt.__file__).parent.parent / "CHANGELOG.md"
    if not path.is_file():
        pytest.skip("headsculpt runs from an installation")
    first = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("## "))
    assert headsculpt.__version__ in first
