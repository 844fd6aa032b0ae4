"""The real loop, cut off at any step, ends with the same head as undisturbed, bit for bit."""

import pytest
import torch

from headsculpt.config import load_config
from headsculpt.run_folder import RunFolder
from headsculpt.sculpting import sculpt

TINY = [
    "coarse.steps=4", "coarse.batch=1", "coarse.render_size=16", "coarse.samples=8", "coarse.hash_levels=4",
    "fine.steps=3", "fine.batch=1", "fine.render_size=24", "fine.tet_resolution=16", "refine.tet_resolution=16",
    "checkpoint_every_s=0", "preview_every_s=1000",
]  # fmt: skip


class Killed(Exception):
    pass


def darker(rendering, cameras, progress, generator):
    noise = torch.rand(rendering.rgb.shape, generator=generator)
    return (rendering.rgb * noise).mean()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    config = load_config("draft", TINY, prompt="an egg", device="cpu")
    run = RunFolder.create(tmp_path_factory.mktemp("whole"), config)
    return sculpt(config, run, guidance=darker)


@pytest.mark.parametrize("moments", [[2], [5], [1, 2, 2]], ids=["in coarse", "in fine", "three times"])
def test_an_interrupted_run_ends_the_same(undisturbed, tmp_path, moments):
    config = load_config("draft", TINY, prompt="an egg", device="cpu")
    run = RunFolder.create(tmp_path, config)
    for steps in moments:
        seen = []

        def stop(progress, steps=steps, seen=seen):
            seen.append(progress)
            if len(seen) == steps:
                raise Killed

        with pytest.raises(Killed):
            sculpt(config, run, guidance=darker, progress=stop)
        torch.manual_seed(99)  # what happens between the two must not matter
    head = sculpt(config, RunFolder.open(tmp_path), guidance=darker)
    for part in ("vertices", "faces", "colours"):
        assert torch.equal(getattr(head.mesh, part), getattr(undisturbed.mesh, part))
    assert all(torch.equal(head.coarse[name], value) for name, value in undisturbed.coarse.items())


def test_the_kept_field_is_the_coarse_one_and_the_mesh_leaves_it_alone(undisturbed, tmp_path):
    config = load_config("draft", [*TINY, "fine.match_steps=0"], prompt="an egg", device="cpu")
    unmatched = sculpt(config, RunFolder.create(tmp_path, config), guidance=darker)
    assert all(torch.equal(unmatched.coarse[name], value) for name, value in undisturbed.coarse.items())
    assert not torch.equal(unmatched.mesh.colours.mean(0), undisturbed.mesh.colours.mean(0))  # it did match
