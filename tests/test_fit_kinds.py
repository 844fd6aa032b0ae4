"""Reconstruction by NeuS, the colours of a mesh that is given, and fits that are interrupted."""

import pytest
import torch
from fit_scene import RADIUS, TINY, ball_mesh, ball_views, grey_psnr

from headsculpt.fit_checkpoint import FitCheckpoint
from headsculpt.fit_outputs import check_free
from headsculpt.fit_stages import hull_distance, hull_prior, new_neus
from headsculpt.fitting import Photographs, fit
from headsculpt.meshes import Mesh, topology
from headsculpt.representations.neus import NeuS
from headsculpt.scene_mesh import read_mesh
from headsculpt.transforms import PosedImages


def test_a_ball_is_found_again_by_neus():
    images, cameras = ball_views()
    found = fit(images, cameras, representation="neus", steps=60, settings=TINY)
    assert isinstance(found.field, NeuS) and found.surface is None
    assert topology(found.mesh.faces).closed
    assert (found.mesh.vertices.norm(dim=-1) - RADIUS).abs().mean() < 0.045  # half a pixel
    assert set(found.psnr) == {"neus"} and found.psnr["neus"] > grey_psnr() + 4


def test_the_hull_that_a_neus_starts_from_holds_the_ball():
    images, cameras = ball_views()
    neus = new_neus(Photographs(images, cameras), TINY, torch.Generator().manual_seed(0))
    direction = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    assert (neus.signed_distance(direction * (RADIUS - 0.02)) < 0).all()
    assert (neus.signed_distance(direction * (RADIUS + 0.35)) > 0).float().mean() > 0.95
    with pytest.raises(ValueError, match="images without opacity have no visual hull"):
        hull_distance(Photographs(images[..., :3], cameras), 8)


def test_the_density_that_a_nerf_starts_from_covers_the_ball_and_leaves_no_room_for_specks():
    images, cameras = ball_views()
    prior = hull_prior(Photographs(images, cameras), TINY.hull_resolution)
    direction = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    assert (prior(direction * RADIUS) > 0).all()  # its own edge is not learnt against the start
    assert (prior(direction * 0.98) < -20).float().mean() > 0.95  # networks were seen to reach 9 where nobody looks


def test_the_colours_of_a_mesh_are_found_and_its_shape_is_kept():
    images, cameras = ball_views()
    before = ball_mesh()
    found = fit(images, cameras, representation="texture", mesh=before, steps=60, settings=TINY)
    assert found.field is None and set(found.psnr) == {"texture"} and found.psnr["texture"] > grey_psnr() + 8
    order = torch.cdist(found.mesh.vertices, before.vertices).argmin(1)
    assert torch.equal(found.mesh.vertices, before.vertices[order])
    away = Mesh(before.vertices * 0.2 + 0.7, before.faces)
    with pytest.raises(ValueError, match="not where the images show the object: .* share 0% of their area"):
        fit(images, cameras, representation="texture", mesh=away, steps=1, settings=TINY)


@pytest.mark.parametrize("representation", ["neus", "dmtet"])
def test_an_interrupted_fit_goes_on_to_the_same_bits(tmp_path, representation):
    images, cameras = ball_views()
    arguments = {"representation": representation, "steps": 7, "settings": TINY}
    whole = fit(images, cameras, **arguments)
    done = []
    while len(done) < 7:

        def interrupt(progress):
            done.append(progress.step)
            if len(done) in (3, 6):  # of the field, and of the surface where there is one
                raise KeyboardInterrupt

        checkpoint = FitCheckpoint(tmp_path / "fit.pt", every_s=0, resume=bool(done))
        try:
            found = fit(images, cameras, progress=interrupt, checkpoint=checkpoint, **arguments)
        except KeyboardInterrupt:
            continue
    assert len(done) == 7
    assert torch.equal(found.mesh.vertices, whole.mesh.vertices) and found.psnr == whole.psnr


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    images, cameras = ball_views()
    path = tmp_path / "fit.pt"
    with pytest.raises(FileNotFoundError, match="there is nothing to resume: no file .*fit.pt"):
        FitCheckpoint(path, resume=True)
    fit(images, cameras, representation="neus", steps=1, settings=TINY, checkpoint=FitCheckpoint(path))
    with pytest.raises(ValueError, match="fit.pt was begun with steps = 1, now it is 2; give the same arguments"):
        resumed = FitCheckpoint(path, resume=True)
        fit(images, cameras, representation="neus", steps=2, settings=TINY, checkpoint=resumed)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="fit.pt is no checkpoint of a fit, or damaged; begin anew"):
        FitCheckpoint(path, resume=True)
    torch.save({"format": 99, "asked": {}, "stages": {}}, path)
    with pytest.raises(ValueError, match="has format 99; this headsculpt reads up to 1: update headsculpt"):
        FitCheckpoint(path, resume=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(FileExistsError, match="holds an unfinished reconstruction; go on with --resume, replace it"):
        check_free(tmp_path / "out")
    check_free(tmp_path / "out", resume=True)


def test_a_mesh_file_is_brought_into_the_scene(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    images, cameras = ball_views()
    turn = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    place = torch.eye(4, dtype=torch.float64)
    place[:3] *= 0.5
    place[:3, 3] = torch.tensor([0.1, 0.2, 0.3])
    posed = PosedImages(images, cameras, [], place @ turn)
    scene = torch.tensor([[0.1, 0.2, 0.3], [0.6, 0.2, 0.3], [0.1, 0.7, 0.3]])
    files = {
        "cameras": [[0, 0, 0], [1, 0, 0], [0, 0, 1]],
        "y-up": [[0, 0, 0], [1, 0, 0], [0, 1, 0]],
        "headsculpt": (0.25 * scene).tolist(),
    }
    for frame, vertices in files.items():
        trimesh.Trimesh(vertices, [[0, 1, 2]], process=False).export(tmp_path / "mesh.ply")
        torch.testing.assert_close(read_mesh(tmp_path / "mesh.ply", posed, frame).vertices, scene)
    with pytest.raises(ValueError, match="the mesh's frame must be one of cameras, y-up, headsculpt; got 'z'"):
        read_mesh(tmp_path / "mesh.ply", posed, "z")
    (tmp_path / "mesh.ply").write_bytes(b"no mesh")
    with pytest.raises(ValueError, match="mesh.ply is no mesh that can be read"):
        read_mesh(tmp_path / "mesh.ply", posed)
    with pytest.raises(FileNotFoundError, match="there is no mesh file .*none.obj"):
        read_mesh(tmp_path / "none.obj", posed)
