"""The avatar: what a user holds, looks at, saves and exports."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headsculpt.editing import FIELD_FILE, SourceField
from headsculpt.meshes import Mesh
from headsculpt.run_folder import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    from headsculpt.export.rig import Rig
    from headsculpt.guidance.score_distillation import Guidance
    from headsculpt.sculpting import Progress

FORMAT = 1
GEOMETRY_FILE, TEXTURE_FILE, INFO_FILE = "geometry.safetensors", "texture.png", "avatar.json"
EXPORT_SUFFIXES = (".glb", ".obj", ".ply")


@dataclass
class AvatarInfo:
    """Where an avatar comes from.

    Attributes:
        prompt, negative_prompt, seed, preset, prior: as in :class:`headsculpt.config.SculptConfig`.
        versions: of headsculpt and torch when it was made.
        lineage: earlier avatars that this one was made from, oldest first; their prompts or instructions.
        instruction, strength: of the edit that made it; empty and 0 for a head made from its prompt alone. The
            prompt of an edited head describes it after the edit.
        identity, expression: weights of the built-in head that it was sculpted from, by which it is rigged; None where
            that is not known.
    """

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    preset: str = ""
    prior: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    lineage: list[str] = field(default_factory=list)
    instruction: str = ""
    strength: float = 0.0
    identity: dict[str, float] | None = None
    expression: dict[str, float] | None = None


@dataclass
class Avatar:
    """A textured head in scene units (see :mod:`headsculpt.cameras`), and where it comes from.

    Example:
        >>> avatar = Avatar.from_prompt("an elf with a red beanie", preset="draft")  # doctest: +SKIP
        >>> avatar.render(azimuth_deg=30, resolution=512).save("elf.png")  # doctest: +SKIP
        >>> avatar.export("elf.glb")  # doctest: +SKIP
    """

    mesh: Mesh
    info: AvatarInfo = field(default_factory=AvatarInfo)
    # What edits go on from; None for a mesh that was not sculpted.
    source_field: SourceField | None = field(default=None, repr=False, compare=False)
    loaded_from: Path | None = field(default=None, repr=False, compare=False)
    # The mesh that was rigged, and what came of it: it takes seconds.
    _rigged: tuple[Mesh, tuple[Mesh, Rig]] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def from_prompt(
        cls,
        prompt: str,
        *,
        preset: str = "mini",
        seed: int = 0,
        out: str | Path | None = None,
        device: str = "auto",
        guidance: Guidance | None = None,
        overrides: Iterable[str] = (),
        progress: Callable[[Progress], None] | None = None,
    ) -> Avatar:
        """Sculpts a head.

        Args:
            prompt: what it should look like.
            preset: ``draft``, ``mini``, ``sd15``, or a YAML file.
            seed: of all randomness; the same seed on the same machine gives the same head.
            out: run folder with checkpoints, previews and all outputs; None keeps nothing on disk.
            device: ``auto``, ``cpu`` or ``cuda``.
            guidance: any ``(rendering, cameras, progress, generator) -> loss`` in place of the preset's.
            overrides: ``key=value`` settings, such as ``coarse.steps=200``.
            progress: called after every step.

        Raises:
            ValueError: a prompt, preset or setting that cannot be used; says which and what would be.
            FileExistsError: ``out`` holds another run.
        """
        from headsculpt.config import load_config
        from headsculpt.outputs import sculpt_run
        from headsculpt.prompts import check_prompt
        from headsculpt.run_folder import RunFolder

        check_prompt(prompt)
        config = load_config(preset, overrides, prompt=prompt, seed=seed, device=device)
        if out is not None:
            return sculpt_run(config, RunFolder.create(out, config), guidance=guidance, progress=progress)
        with tempfile.TemporaryDirectory(prefix="headsculpt-") as folder:
            run = RunFolder.create(folder, config)
            return sculpt_run(config, run, guidance=guidance, progress=progress, write=False)

    def edit(
        self,
        instruction: str,
        *,
        strength: float | None = None,
        seed: int | None = None,
        out: str | Path | None = None,
        device: str = "auto",
        guidance: Guidance | None = None,
        overrides: Iterable[str] = (),
        progress: Callable[[Progress], None] | None = None,
    ) -> Avatar:
        """A new head, as the instruction asks; this one stays as it is. Edits chain.

        Args:
            instruction: what to change: "give him a red cowboy hat".
            strength: 0 keeps to what the head is, 1 follows the instruction alone, more exaggerates (w_e of
                HeadSculpt); None is 0.95.
            seed: None takes that of this head.
            out, device, guidance, overrides, progress: as in :meth:`from_prompt`.

        Raises:
            ValueError: an instruction or setting that cannot be used; an avatar that was not sculpted, or comes
                from a newer headsculpt; ``out`` is this avatar's own folder.
            FileExistsError: ``out`` holds another run.
        """
        from headsculpt.editing import create_edit_run, edit_config
        from headsculpt.outputs import sculpt_run

        config = edit_config(
            self, instruction, strength=strength, seed=seed, device=device, overrides=overrides
        )
        if out is not None:
            run = create_edit_run(out, config, self)
            return sculpt_run(config, run, guidance=guidance, progress=progress)
        with tempfile.TemporaryDirectory(prefix="headsculpt-") as folder:
            run = create_edit_run(folder, config, self)
            return sculpt_run(config, run, guidance=guidance, progress=progress, write=False)

    def render(
        self,
        azimuth_deg: float = 0.0,
        elevation_deg: float = 0.0,
        resolution: int = 512,
        *,
        half_height: float = 1.0,
        background: tuple[float, float, float] | None = None,
        shaded: bool = True,
    ) -> Image:
        """A picture of the head.

        Args:
            azimuth_deg: 0 = front, 90 = the head's left side, 180 = back.
            elevation_deg: in (-90, 90); positive looks down on it.
            resolution: rows and columns, 1 to 4096.
            half_height: scene units shown above and below the middle; 1.0 is the bust, 0.5 the face.
            background: colour in [0, 1]; None is transparent.
            shaded: under the studio light; otherwise plain albedo.

        Returns:
            a PIL image, RGBA where the background is None, else RGB.
        """
        from PIL import Image

        from headsculpt.cameras import framed
        from headsculpt.export.view import render_mesh, to_uint8

        if not 1 <= resolution <= 4096:
            raise ValueError(f"resolution must be 1 to 4096 pixels; got {resolution}")
        cameras = framed([azimuth_deg], elevation_deg, half_height, height=resolution, width=resolution)
        rendering = render_mesh(self.mesh, cameras, background=background or (0.0, 0.0, 0.0), shaded=shaded)
        if background is not None:
            return Image.fromarray(to_uint8(rendering.rgb[0]))
        # Undo the blend with black, so that outlines keep their colour over any background.
        opacity = rendering.opacity[0]
        straight = rendering.rgb[0] / opacity.clamp_min(1e-3)
        return Image.fromarray(to_uint8(torch.cat([straight, opacity], -1)), "RGBA")

    def _repr_png_(self) -> bytes:
        """What a notebook shows where a cell ends with an avatar: front, three-quarter, side and back."""
        from PIL import Image

        from headsculpt.export.view import strip

        png = io.BytesIO()
        Image.fromarray(strip(self.mesh, 256)).save(png, "PNG")
        return png.getvalue()

    def turntable(
        self, path: str | Path, frames: int = 36, resolution: int = 384, *, frames_per_second: float = 15.0
    ) -> Path:
        """Writes a walk around the head; the suffix chooses .webp, .gif, .png (animated) or .mp4."""
        from headsculpt.export.view import check_movie_path, turntable_frames, write_movie

        path = check_movie_path(path)
        if frames < 1 or not 16 <= resolution <= 4096:
            raise ValueError(f"a turntable needs 1 frame or more of 16 to 4096 pixels; got {frames}, {resolution}")
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures = turntable_frames(self.mesh, frames, resolution)
        return write_movie(path, pictures, frames_per_second=frames_per_second)

    @property
    def can_move(self) -> bool:
        """Whether the head can be rigged: heads of 0.17.0 and before do not know what they were sculpted from."""
        return self.info.identity is not None

    def rigged(self) -> tuple[Mesh, Rig]:
        """The head's mesh, finer where the face bends and with a mouth that opens, and how it moves.

        Returns:
            the mesh, and its rig: joints root, neck and jaw, and the 52 expressions of ARKit.

        Raises:
            ValueError: it is not known which head this was sculpted from.
        """
        from headsculpt.export.rig import rigged
        from headsculpt.synthesis.completion import in_near_words
        from headsculpt.synthesis.reading import read_prompt

        if self.info.identity is None:
            where = f"the avatar in {self.loaded_from}" if self.loaded_from is not None else "this avatar"
            raise ValueError(
                f"{where} does not know which head it was sculpted from (it was not sculpted, or by headsculpt 0.17.0 "
                "or older), so it cannot move; sculpt it again, or edit it"
            )
        if self._rigged is None or self._rigged[0] is not self.mesh:
            said = read_prompt(in_near_words(self.info.prompt)).values
            alive = said.get("material", "plain") == "plain"  # statues have no teeth
            self._rigged = (self.mesh, rigged(self.mesh, self.info.identity, self.info.expression or {}, teeth=alive))
        return self._rigged[1]

    def posed(
        self,
        expression: Mapping[str, float] | None = None,
        turned_deg: Mapping[str, Iterable[float]] | None = None,
    ) -> Avatar:
        """The head with an expression and turned joints, to look at and to export; this one stays as it is.

        Args:
            expression: ARKit name -> weight in [0, 1], such as ``{"jawOpen": 0.6, "eyeBlinkLeft": 1}``.
            turned_deg: joint (``neck``, ``jaw`` or ``root``) -> turn ``(3,)`` in degrees, axis times angle: x nods
                down, y turns to the head's left, z leans to its right.

        Raises:
            ValueError: a name that the rig does not have (the nearest ones are suggested), a number that is not
                finite, or a head that cannot move.
        """
        from headsculpt.export.rig import posed

        mesh, rig = self.rigged()
        turns = {name: np.deg2rad(list(turn)).tolist() for name, turn in (turned_deg or {}).items()}
        still = replace(self.info, identity=None, expression=None)
        return Avatar(posed(mesh, rig, expression, turns), still)

    def export(self, path: str | Path, *, rig: bool = True) -> Path:
        """Writes the head for other programs, in metres, +Y up, facing +Z.

        The suffix chooses: ``.glb`` (textured, and rigged where :attr:`can_move`), ``.obj`` (with .mtl and .png beside
        it), ``.ply`` (vertex colours).

        Args:
            path: of the file.
            rig: whether a GLB gets joints and expressions (:meth:`rigged`).

        Raises:
            ValueError: another suffix, or a head without the texture that the format needs.
        """
        from headsculpt.export.gltf import glb_bytes
        from headsculpt.export.wavefront import obj_files, ply_bytes

        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in EXPORT_SUFFIXES:
            raise ValueError(f"an avatar can be exported as {', '.join(EXPORT_SUFFIXES)}; got {str(path)!r}")
        if suffix == ".glb":
            mesh, skeleton = self.rigged() if rig and self.can_move else (self.mesh, None)
            files = {path.name: glb_bytes(mesh, rig=skeleton)}
        elif suffix == ".ply":
            files = {path.name: ply_bytes(self.mesh)}
        else:
            made = obj_files(self.mesh, path.stem)
            obj = made.pop(f"{path.stem}.obj")
            files = {**made, path.name: obj}  # last: who sees the OBJ finds what it names
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomically(path.parent / name, content)
        return path

    def save(self, folder: str | Path) -> Path:
        """Writes geometry (safetensors), texture (PNG) and ``avatar.json``; the same avatar, the same bytes.

        Raises:
            FileExistsError: the folder holds something that is no avatar.
        """
        from PIL import Image
        from safetensors.torch import save as to_safetensors

        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file; give a folder to save the avatar in")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / INFO_FILE).is_file():
            raise FileExistsError(f"{folder} holds files that are no avatar; give an empty or a new folder")
        mesh = self.mesh
        tensors = {
            "vertices": mesh.vertices.detach().cpu().float().contiguous(),
            "faces": mesh.faces.cpu().to(torch.int32).contiguous(),
        }
        if mesh.uv is not None:
            tensors["uv"] = mesh.uv.float().contiguous()
        if mesh.colours is not None:
            tensors["colours"] = mesh.colours.detach().cpu().float().contiguous()
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_atomically(partial / GEOMETRY_FILE, to_safetensors(tensors))
        if mesh.texture is not None:
            png = io.BytesIO()
            Image.fromarray(mesh.texture).save(png, "PNG")
            write_atomically(partial / TEXTURE_FILE, png.getvalue())
        if self.source_field is not None:
            write_atomically(partial / FIELD_FILE, self.source_field.to_bytes())
        info = {"format": FORMAT, **asdict(self.info)}
        write_atomically(
            partial / INFO_FILE, (json.dumps(info, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
        )
        if folder.is_dir():
            shutil.rmtree(folder)
        partial.rename(folder)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Avatar:
        """Reads what :meth:`save` wrote; also takes a run folder, whose avatar it reads.

        Raises:
            FileNotFoundError: no such folder, or no avatar in it.
            ValueError: a damaged file, or one from a newer headsculpt; says which.
        """
        from PIL import Image

        folder = Path(folder)
        if (folder / "avatar" / INFO_FILE).is_file():
            folder = folder / "avatar"
        if not (folder / INFO_FILE).is_file():
            advice = "give a saved avatar or a run"
            if (folder / "config.yaml").is_file():
                advice = f"finish the run with 'headsculpt resume {folder}'"
            raise FileNotFoundError(f"{folder} holds no avatar (no {INFO_FILE}); {advice}")
        info = _read_info(folder / INFO_FILE)
        try:
            from safetensors.torch import load as from_safetensors

            tensors = from_safetensors((folder / GEOMETRY_FILE).read_bytes())
            texture = None
            if (folder / TEXTURE_FILE).is_file():
                with Image.open(folder / TEXTURE_FILE) as image:
                    texture = np.array(image.convert("RGB"))
            mesh = Mesh(
                tensors["vertices"], tensors["faces"].long(), tensors.get("colours"), tensors.get("uv"), texture
            ).checked(str(folder / GEOMETRY_FILE))
            _check_uv(mesh)
        except FileNotFoundError as error:
            missing = error.filename or GEOMETRY_FILE
            raise FileNotFoundError(f"the avatar in {folder} is incomplete: {missing} is missing") from None
        except Exception as error:  # safetensors and PIL raise kinds of their own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"the avatar in {folder} is damaged ({reason}); restore it or sculpt it again") from None
        source_field = SourceField.load(folder / FIELD_FILE) if (folder / FIELD_FILE).is_file() else None
        return cls(mesh, info, source_field, folder)


def _read_info(path: Path) -> AvatarInfo:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        number = content["format"]
        if not isinstance(number, int):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: it should be JSON with a format number") from None
    if number > FORMAT:
        raise ValueError(
            f"{path} was written by a newer headsculpt (format {number}, this one reads up to {FORMAT}): update it"
        )
    known = {f.name for f in fields(AvatarInfo)}
    return AvatarInfo(**{key: value for key, value in content.items() if key in known})


def _check_uv(mesh: Mesh) -> None:
    if mesh.uv is not None:
        if tuple(mesh.uv.shape) != (len(mesh.faces), 3, 2):
            raise ValueError(f"uv is {tuple(mesh.uv.shape)}; expected ({len(mesh.faces)}, 3, 2)")
        if not torch.isfinite(mesh.uv).all():
            raise ValueError("a UV is not finite")
