"""Everything that can be set about a sculpture: the dataclasses are the schema.

A configuration is a preset (``presets/*.yaml``, which only names what differs from the defaults here),
then ``key=value`` overrides with dotted keys (``coarse.steps=400``), then keyword arguments.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

PRESETS = ("draft", "mini", "sd15", "sd15-fast", "sd21")


@dataclass
class PriorConfig:
    """Which diffusion model guides.

    Attributes:
        name: alias of the catalogue (``mini``, ``sd15``, ...), hub id, or a folder in the diffusers layout.
        controls: ControlNets to use, by the catalogue's names.
        control_scale: weight of what the ControlNets add.
        dtype: ``auto``, ``float32``, ``float16`` or ``bfloat16``; ``auto`` is float32 on a CPU, float16 on CUDA.
        tokens: files of learned tokens, beside those in the prior's own folder ``tokens``.
        attention: ``sdpa`` is torch's fused attention; ``sliced`` takes the heads one after another, slower and
            smaller.
        vae_slicing: encode and decode one image at a time.
        vae_tiling: encode and decode large images in overlapping tiles; seams can show.
        offload: ``none``; ``model`` keeps on the device only the network that is at work; ``sequential`` only
            the layer, which is slow. The autoencoder stays, because gradients go through it. CUDA only.
        gradient_checkpointing: compute activations twice instead of keeping them (encoder; UNet for ``vsd``).
    """

    name: str = "mini"
    controls: list[str] = field(default_factory=lambda: ["landmarks"])
    control_scale: float = 1.0
    dtype: str = "auto"
    tokens: list[str] = field(default_factory=list)
    attention: str = "sdpa"
    vae_slicing: bool = False
    vae_tiling: bool = False
    offload: str = "none"
    gradient_checkpointing: bool = False


@dataclass
class CameraConfig:
    """Ranges that the training cameras are drawn from; see :func:`headsculpt.cameras.sample_head_cameras`.

    Half heights are scene units shown above and below the middle of the frame. ``face_share`` of the cameras look
    closely at the face.

    In the first ``busts_first`` of the coarse stage all cameras see whole busts instead, at ``bust_half_height_min``
    or more (ours): a picture of a face from near cuts a hat off, and hair is drawn where its brim would have grown.
    Half of the close looks that are left out come in the rest of the stage; by then the hat is there, and is drawn.
    """

    elevation_min_deg: float = -15.0
    elevation_max_deg: float = 35.0
    half_height_min: float = 0.50
    half_height_max: float = 1.05
    fov_min_deg: float = 20.0
    fov_max_deg: float = 32.0
    jitter: float = 0.04
    busts_first: float = 0.5
    bust_half_height_min: float = 0.72
    face_share: float = 0.35
    face_half_height_min: float = 0.36
    face_half_height_max: float = 0.62


@dataclass
class GuidanceConfig:
    """How a prediction of the diffusion model becomes a gradient.

    Attributes:
        score: which distillation (:mod:`headsculpt.guidance.scores`): ``sds``, ``vsd``, ``ism``, ``csd``, ``nfsd``
            or ``ssd``.
        perp_neg: push the wrong views away with perpendicular negatives (:mod:`headsculpt.guidance.perp_neg`),
            in scores that use classifier-free guidance (all but ``csd`` and ``nfsd``).
        sampler: of clean estimates that take several steps (``denoise_steps``), in ``sds`` and in edits: ``dpm``
            (DPM-Solver++) or ``ddim``, which needs up to twice as many (:mod:`headsculpt.guidance.samplers`).
        negative_weight: of the negative prompt in ``csd``.
        ism_interval, ism_stride: of ``ism``, as fractions of the schedule.
        lora_rank, lora_rate: of the LoRA that ``vsd`` trains beside the sculpture, and its learning rate.
        weighting: of the timestep (method A.8, E.1): ``sds`` 1 - abar, ``uniform`` 1, ``fantasia3d``
            sqrt(abar) (1 - abar).
        cfg_form: ``standard`` is e_u + s (e_t - e_u); ``one_plus`` is e_t + s (e_t - e_u).
        rescale: how far the guided prediction's spread is pulled back to the conditional one's, 0 to 1.
        latent_weight: of the residual in latents (score distillation proper).
        image_weight: of the residual in RGB, from the decoded clean latent (HiFA's image loss).
        grad_clip: largest absolute value of a latent gradient element; 0 means no limit.
        common_noise: share of the noise (of its variance) that is the same in all views and steps, 0 to 1;
            0 as published. It decides what the prompt leaves open, where ``complete_prompt`` does not; but one
            unlucky noise then whitens a whole head.
        drawn_colours: take the colours of the pictures that are asked for, less their brightness, as they were decoded,
            and not on top of what is rendered (:func:`headsculpt.guidance.score_distillation.asked_picture`; ours). The
            last look always does.
        prompt_style: ``headsculpt`` names the view as the paper does, ``mini`` as the mini family learned it.
        complete_prompt: settle what the prompt leaves open (skin, hair, clothes) from the seed, in the words of
            the mini family; see :mod:`headsculpt.synthesis.completion`.
        keep_off: with ``complete_prompt``, guidance away from what the mini family draws although nobody asks for it
            (:func:`headsculpt.synthesis.completion.unwanted`; ours).
        landmark_rule: ``visible`` draws the landmarks that the camera sees, ``published`` all but from behind.
        cover_landmarks: by the rule ``visible`` and the style ``mini``, draw none that a hat, a full beard or
            sunglasses would cover (:func:`headsculpt.guidance.landmark_control.covered`; ours).
        landmarks_until: share of a stage after which the landmark ControlNet rests.
        text_to_head: start from the head that the prompt describes (mini family) instead of the template.
        back_token: say the learned token ``back-view`` behind the head, where the prior has one.
        landmark_drawing: ``headsculpt`` draws lines alone; ``annotator`` draws exactly as the annotator of
            CrucibleAI/ControlNetMediaPipeFace: pupils, two lines to a brow, no line that leaves the picture.
        head: ``builtin``, or a FLAME file of your own (``headsculpt convert-flame`` makes it).
        head_landmarks: MediaPipe's landmarks on FLAME, a file of your own; empty finds them by fitting.
    """

    score: str = "sds"
    perp_neg: bool = False
    sampler: str = "dpm"
    negative_weight: float = 0.0
    ism_interval: float = 0.05
    ism_stride: float = 0.2
    lora_rank: int = 4
    lora_rate: float = 1e-4
    weighting: str = "uniform"
    cfg_form: str = "standard"
    rescale: float = 0.0
    latent_weight: float = 0.0
    image_weight: float = 1.0
    grad_clip: float = 0.0
    common_noise: float = 0.0
    drawn_colours: bool = False
    prompt_style: str = "mini"
    complete_prompt: bool = True
    keep_off: bool = True
    landmark_rule: str = "visible"
    cover_landmarks: bool = True
    landmarks_until: float = 1.0
    text_to_head: bool = True
    back_token: bool = True
    landmark_drawing: str = "headsculpt"
    head: str = "builtin"
    head_landmarks: str = ""


@dataclass
class CoarseConfig:
    """The NeRF stage. Learning rates are Adam's; sizes are pixels; timesteps are fractions of the schedule.

    Attributes:
        steps: calls of the guidance, each an optimiser step.
        replay: further steps after each call, on pictures of the last calls (:mod:`headsculpt.replay`; ours); only
            where the guidance gives pictures (``guidance.image_weight`` above 0).
        render_size: rows and columns of a render.
        batch: cameras per step.
        lr_grid, lr_network: of the hash grid and of the networks behind it.
        hash_levels, hash_finest, hash_log2_table: of the hash-grid encoding.
        samples: largest number of samples on a ray.
        guidance_scale: classifier-free guidance.
        landmarks_guided: where landmarks are drawn, guidance points at them as it does at the text
            (:func:`headsculpt.guidance.score_distillation.predictor`); if not, as published, it starts from a
            prediction that sees them, too.
        t_min: lowest timestep drawn.
        t_window: timesteps are drawn from this much below the upper end; 1 is the whole range, as published.
        t_max_start, t_max_end: highest timestep drawn, at the first and at the last step.
        denoise_steps: predictions of the clean estimate; 1 is score distillation as published.
        entropy_weight: opacity entropy at the end of its ramp (method A.8).
        opacity_weight: mean opacity, against fog.
        orientation_weight: normals that face away from the camera.
        prior_kind: ``solid`` head (ours), the published ``shell``, or ``blob``: a ball, no head at all.
        prior_inside, prior_slope, prior_inside_slope: largest raw density of the head as density prior, and its
            rise per scene unit outside and inside: lower ones outside are easier to grow from, inside to carve.
        paint_steps: steps in which the field learns the plain colours of the starting head before guidance
            begins (ours); 0 starts from grey, as published.
    """

    steps: int = 80
    replay: int = 5
    render_size: int = 64
    batch: int = 3
    lr_grid: float = 1e-2
    lr_network: float = 1e-3
    hash_levels: int = 12
    hash_finest: int = 256
    hash_log2_table: int = 15
    samples: int = 64
    guidance_scale: float = 3.0
    landmarks_guided: bool = False
    t_min: float = 0.02
    t_max_start: float = 0.98
    t_max_end: float = 0.65
    t_window: float = 0.1
    denoise_steps: int = 4
    entropy_weight: float = 0.05
    opacity_weight: float = 0.003
    orientation_weight: float = 1e-2
    prior_kind: str = "solid"
    prior_inside: float = 6.0
    prior_slope: float = 60.0
    prior_inside_slope: float = 160.0
    paint_steps: int = 160


@dataclass
class FineConfig:
    """The mesh stage (DMTet), made from the coarse one.

    Attributes:
        tet_resolution: cells of the tetrahedral grid along an axis.
        lr_geometry: of signed distances and deformation; lr_grid, lr_network: of the colour field.
        laplacian_weight, normal_weight: smoothness of the surface (method A.9, E.7).
        match_steps: steps in which the mesh learns to look like the coarse stage from all around, before guidance
            goes on (ours): a NeRF's colours are seen through a thin fog, a mesh shows those on the surface.
        sign_weight: against floating pieces, on signed distances that change sign along an edge.
        relief: where the sculpture stands off from the head that it started from by less than this (scene units), it
            gets that head's own surface, before this stage and after it (ours); 0 leaves it as it is.
        Others: as in :class:`CoarseConfig`.
    """

    steps: int = 24
    replay: int = 3
    tet_resolution: int = 88
    render_size: int = 256
    batch: int = 2
    lr_geometry: float = 1e-3
    lr_grid: float = 1e-2
    lr_network: float = 1e-3
    guidance_scale: float = 3.0
    landmarks_guided: bool = False
    t_min: float = 0.02
    t_max_start: float = 0.6
    t_max_end: float = 0.20
    t_window: float = 0.1
    denoise_steps: int = 4
    laplacian_weight: float = 20.0
    normal_weight: float = 0.05
    sign_weight: float = 0.0
    match_steps: int = 50
    relief: float = 0.035


@dataclass
class RefineConfig:
    """The last look at the mesh, see :mod:`headsculpt.refining`; only its colours change. Values are ours.

    Attributes:
        views: that are painted, the first so many of :data:`headsculpt.refining.VIEWS`; 0 leaves the last look out.
        t_max_start, t_max_end: noise of the first picture of a round of views, and of the last one's of the face.
        t_window: how far below that it may be.
        denoise_steps: predictions of each picture.
        tet_resolution: of the grid that the shape is put on first.
        upscale: pictures are made twice as large before they are painted, by priors that can
            (:mod:`headsculpt.priors.upscaler`).
        carry_on: places that no picture shows take the colour of the nearest one that is shown
            (:meth:`headsculpt.representations.painted.PaintedColours.carry_on`).
        Others: as in :class:`CoarseConfig`.
    """

    views: int = 15
    tet_resolution: int = 160
    upscale: bool = True
    carry_on: bool = True
    guidance_scale: float = 3.0
    landmarks_guided: bool = True
    t_min: float = 0.02
    t_max_start: float = 0.75
    t_max_end: float = 0.25
    t_window: float = 0.02
    denoise_steps: int = 6


@dataclass
class EditConfig:
    """An edit of a finished head: identity-aware editing (HeadSculpt, method A.10). No instruction, no edit.

    Attributes:
        instruction: what to change.
        told: the edited head as the model is told it, with all that the source's prompt left open, so that the
            edit leaves that as it was; made from the source's where empty.
        strength: w_e of the paper: 0 keeps to the source's description, 1 follows the instruction alone, more
            exaggerates. The paper's value is not known; the default is ours.
        reference: show the source to the prior's instruction ControlNet, where it has one; as published. With ``mini``,
            text alone is the default: it understands more words, and asks less of the model.
        target_share: share of the edited prediction that reads the edited head's prompt instead of the
            instruction; 0 as published. Without an instruction ControlNet it is 1.
        mask: keep as they are the places where the edited prediction and the source's agree (ours).
        place: keep as it is what lies outside the places of what the instruction names, where it is understood and
            its changes have a place (:mod:`headsculpt.edit_place`; ours).
        t_max_end: what ``coarse.t_max_end`` is at least in an edit that may change the shape in its place (ours): from
            above it a hat is drawn where hair was, from below it the hair stays.
        mask_timestep: noise at which the two are compared, as a fraction of the schedule.
        mask_threshold: difference that counts as half an edit, as a fraction of the edit's strongest one.
    """

    instruction: str = ""
    told: str = ""
    strength: float = 0.95
    reference: bool = False
    target_share: float = 0.5
    mask: bool = True
    place: bool = True
    t_max_end: float = 0.85
    mask_timestep: float = 0.6
    mask_threshold: float = 0.15


@dataclass
class OutputConfig:
    """What is written at the end; sizes are pixels."""

    texture_size: int = 1024
    max_faces: int = 20000
    turntable_frames: int = 36
    turntable_size: int = 256
    preview_size: int = 384


@dataclass
class SculptConfig:
    """One sculpture, completely described; ``config.yaml`` of a run folder holds exactly this."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    preset: str = "mini"
    device: str = "auto"
    prior: PriorConfig = field(default_factory=PriorConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    cameras: CameraConfig = field(default_factory=CameraConfig)
    coarse: CoarseConfig = field(default_factory=CoarseConfig)
    fine: FineConfig = field(default_factory=FineConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    edit: EditConfig = field(default_factory=EditConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    checkpoint_every_s: float = 20.0
    preview_every_s: float = 10.0


# Free text never goes through OmegaConf, which would read "${...}" in it as a reference.
_TEXT = ("prompt", "negative_prompt", "edit.instruction", "edit.told")
_CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "prior.dtype": ("auto", "float32", "float16", "bfloat16"),
    "prior.attention": ("sdpa", "sliced"),
    "prior.offload": ("none", "model", "sequential"),
    "guidance.score": ("sds", "vsd", "ism", "csd", "nfsd", "ssd"),
    "guidance.sampler": ("dpm", "ddim"),
    "guidance.weighting": ("sds", "uniform", "fantasia3d"),
    "guidance.cfg_form": ("standard", "one_plus"),
    "guidance.prompt_style": ("headsculpt", "mini"),
    "guidance.landmark_rule": ("visible", "published"),
    "guidance.landmark_drawing": ("headsculpt", "annotator"),
    "coarse.prior_kind": ("solid", "shell", "blob"),
}


def load_config(preset: str = "mini", overrides: Iterable[str] = (), **settings: Any) -> SculptConfig:
    """The preset with overrides on top.

    Args:
        preset: one of :data:`PRESETS`, or the path of a YAML file with the same keys.
        overrides: ``key=value`` with dotted keys, for instance ``coarse.steps=400``.
        **settings: top-level fields of :class:`SculptConfig` (``prompt``, ``seed``, ``device``, ...).

    Raises:
        ValueError: unknown preset or key (the message suggests near names), a value of the wrong type or
            out of range.

    Example:
        >>> load_config("mini", ["coarse.steps=10"], prompt="an elf", seed=3).coarse.steps
        10
    """
    config = SculptConfig(preset=preset)
    for key, value in _flat(_read_yaml(preset_path(preset))).items():
        _set(config, key, value)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"expected key=value (for instance coarse.steps=400); got {override!r}")
        _set(config, key.strip(), value)
    for key, value in settings.items():
        _set(config, key, value)
    return validated(config)


def overridden(config: SculptConfig, overrides: Iterable[str], **settings: Any) -> SculptConfig:
    """A copy of ``config`` with top-level settings and then overrides on top; see :func:`load_config`."""
    changed = deepcopy(config)
    for key, value in settings.items():
        _set(changed, key, value)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"expected key=value (for instance coarse.steps=400); got {override!r}")
        _set(changed, key.strip(), value)
    return validated(changed)


def read_config(path: str | Path) -> SculptConfig:
    """Reads a ``config.yaml`` that :func:`write_config` wrote; ValueError when it is damaged."""
    return _from_tree(_read_yaml(Path(path)))


def config_from_yaml(text: str, name: str) -> SculptConfig:
    """Reads what :func:`to_yaml` made; ``name`` is where it comes from, for the ValueError when it is damaged."""
    return _from_tree(_parsed_yaml(text, name))


# Of the fitting, which no run does any more.
_RETIRED = {f"refine.{name}" for name in ("steps", "lr_grid", "lr_network", "keep_weight", "chroma_weight")}


def _from_tree(tree: Mapping[str, Any]) -> SculptConfig:
    """The settings of a run. It holds every setting of its time; one that came later gets the value that stands for
    what was done before, so that a run goes on, and a head is edited, as it was made."""
    config, given = SculptConfig(), _flat(tree)
    if given.get("refine.steps") == 0:  # until 0.10.0 pictures were fitted, in so many steps each
        given["refine.views"] = 0
    for key, value in given.items():
        if key not in _RETIRED:
            _set(config, key, value)
    if "coarse.prior_inside_slope" not in given:  # these three are of 0.4.0
        config.coarse.prior_inside_slope = config.coarse.prior_slope
    for key, stage in (("coarse.replay", config.coarse), ("fine.replay", config.fine)):
        if key not in given:
            stage.replay = 0
    if "refine.landmarks_guided" not in given:  # of 0.7.0
        config.refine.landmarks_guided = False
    if "edit.place" not in given:  # this and the sampler are of 0.8.0
        config.edit.place = False
    if "edit.t_max_end" not in given and config.edit.instruction:  # of 0.14.0
        config.edit.t_max_end = 0.0
    if "guidance.sampler" not in given:
        config.guidance.sampler = "ddim"
    if "cameras.busts_first" not in given:  # of 0.16.0
        config.cameras.busts_first = 0.0
    if "guidance.keep_off" not in given:  # these two are of 0.19.0
        config.guidance.keep_off = config.refine.carry_on = False
    if "refine.upscale" not in given:  # of 0.21.0
        config.refine.upscale = False
    if "guidance.cover_landmarks" not in given:  # of 0.23.0; until then mini had no instruction ControlNet
        config.guidance.cover_landmarks = False
        config.edit.reference &= config.prior.name != "mini"
    if "fine.relief" not in given:  # this and the grid are of 0.9.0
        config.fine.relief, config.refine.tet_resolution = 0.0, config.fine.tet_resolution
    return validated(config)


def to_yaml(config: SculptConfig) -> str:
    """The whole configuration as YAML, all values resolved."""
    import yaml

    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def preset_path(preset: str) -> Path:
    """The file of a preset; a name that ends in .yaml is a path of the user's own."""
    if preset.endswith((".yaml", ".yml")):
        if not Path(preset).is_file():
            raise ValueError(f"there is no preset file {preset!r}; give a YAML file or one of {', '.join(PRESETS)}")
        return Path(preset)
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}{_suggestion(preset, PRESETS)}; presets: {', '.join(PRESETS)}")
    return Path(__file__).parent / "presets" / f"{preset}.yaml"


def keys() -> list[str]:
    """All dotted keys, in the order of the schema."""
    return list(_flat(asdict(SculptConfig())))


def validated(config: SculptConfig) -> SculptConfig:
    """Returns ``config``; raises ValueError for the first value that no run could use."""
    for key, choices in _CHOICES.items():
        value = _get(config, key)
        if value not in choices:
            raise ValueError(f"{key} is {value!r}; expected one of {', '.join(choices)}")
    for key, value in _flat(asdict(config)).items():
        name = key.rpartition(".")[2]
        if isinstance(value, float) and value != value:
            raise ValueError(f"{key} is not a number")
        if name in _NOT_NEGATIVE and value < 0:
            raise ValueError(f"{key} is {value}; expected 0 or more")
        if name in _AT_LEAST_ONE and value < _AT_LEAST_ONE[name]:
            raise ValueError(f"{key} is {value}; expected at least {_AT_LEAST_ONE[name]}")
        if name in ("ism_interval", "ism_stride") and not 0 < value <= 1:
            raise ValueError(f"{key} is {value}; expected a fraction of the schedule, above 0 and up to 1")
        if name in ("t_min", "t_max_start", "t_max_end") and not 0 <= value <= 1:
            raise ValueError(f"{key} is {value}; timesteps are fractions of the schedule, 0 to 1")
    if not 0 <= config.cameras.busts_first < 1:
        raise ValueError(f"cameras.busts_first is {config.cameras.busts_first}; expected 0 or more, below 1")
    if config.guidance.score == "vsd" and config.prior.offload != "none":
        raise ValueError(
            f"guidance.score=vsd trains beside the UNet, which must stay on the device; got prior.offload="
            f"{config.prior.offload}, use none"
        )
    edit = config.edit
    if not 0 <= edit.strength <= 3:
        raise ValueError(f"edit.strength is {edit.strength}; expected 0 to 3, where 1 follows the instruction alone")
    for key, value in (("target_share", edit.target_share), ("mask_timestep", edit.mask_timestep)):
        if not 0 <= value <= 1:
            raise ValueError(f"edit.{key} is {value}; expected 0 to 1")
    if edit.mask_threshold <= 0:
        raise ValueError(f"edit.mask_threshold is {edit.mask_threshold}; expected more than 0")
    if not 0 <= config.refine.views <= 15:
        raise ValueError(f"refine.views is {config.refine.views}; expected 0, for no last look, to 15, for all of it")
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"seed is {config.seed}; expected 0 or more, below 2^63")
    if not 4 <= config.coarse.hash_log2_table <= 26:
        raise ValueError(f"coarse.hash_log2_table is {config.coarse.hash_log2_table}; expected 4 to 26")
    return config


_NOT_NEGATIVE = ("steps", "relief", "paint_steps", "match_steps", "replay", "t_window")
_AT_LEAST_ONE = {
    "batch": 1,
    "denoise_steps": 1,
    "hash_finest": 16,
    "lora_rank": 1,
    "render_size": 8,
    "samples": 4,
    "hash_levels": 1,
    "tet_resolution": 8,
    "texture_size": 16,
    "max_faces": 100,
    "turntable_frames": 1,
    "turntable_size": 16,
    "preview_size": 16,
}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no readable YAML file ({error}); restore it or start a new run") from None
    return _parsed_yaml(text, str(path))


def _parsed_yaml(text: str, name: str) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{name} is no readable YAML file ({first}); restore it or start a new run") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ValueError(f"{name} should hold keys and values; it holds a {type(loaded).__name__}")
    return loaded


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def _parent(config: SculptConfig, key: str) -> tuple[Any, str]:
    """The dataclass that holds ``key``, and the last part of it; ValueError when there is none."""
    node: Any = config
    *sections, name = key.split(".")
    for section in sections:
        node = getattr(node, section, None) if is_dataclass(node) else None
    if not is_dataclass(node) or name not in {f.name for f in fields(node)}:
        raise ValueError(f"unknown setting {key!r}{_suggestion(key, keys())}")
    if is_dataclass(getattr(node, name)):
        inside = ", ".join(f"{key}.{f.name}" for f in fields(getattr(node, name))[:3])
        raise ValueError(f"{key!r} is a group of settings; set one of its own, such as {inside}")
    return node, name


def _get(config: SculptConfig, key: str) -> Any:
    node, name = _parent(config, key)
    return getattr(node, name)


def _set(config: SculptConfig, key: str, value: Any) -> None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    node, name = _parent(config, key)
    current = getattr(node, name)
    if key in _TEXT:
        if not isinstance(value, str):
            raise ValueError(f"{key} should be text; got {value!r}")
        setattr(node, name, value)
        return
    try:
        if isinstance(value, str) and not isinstance(current, str):
            # As on a command line: 1e-3 is a number, [a, b] a list, true a truth value.
            value = OmegaConf.from_dotlist([f"value={value}"])["value"]
        schema = OmegaConf.structured(node)
        OmegaConf.update(schema, name, value)
        value = getattr(schema, name)
        setattr(node, name, OmegaConf.to_object(value) if OmegaConf.is_config(value) else value)
    except (OmegaConfBaseException, ValueError, TypeError):
        raise ValueError(
            f"{key} should be {_TYPE_NAMES.get(type(current), 'a value')} (default {current!r}); got {value!r}"
        ) from None


_TYPE_NAMES: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list such as [landmarks]",
}


def _suggestion(given: str, known: Iterable[str]) -> str:
    """`` (did you mean ...?)`` for the nearest known names, or nothing."""
    known = list(known)
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.8)
    if not near:  # a bare or misplaced last part: "stepps", "fine.samples"
        last = given.rpartition(".")[2]
        parts = difflib.get_close_matches(last, {k.rpartition(".")[2] for k in known}, n=1, cutoff=0.7)
        near = [k for k in known if parts and k.rpartition(".")[2] == parts[0]][:3]
    near = near or difflib.get_close_matches(given, known, n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
