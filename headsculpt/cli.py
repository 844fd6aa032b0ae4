"""The ``headsculpt`` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headsculpt import console
from headsculpt.console import Interrupts, ProgressLine, UsageError, command, usage

if TYPE_CHECKING:
    from headsculpt.avatar import Avatar
    from headsculpt.config import SculptConfig
    from headsculpt.run_folder import RunFolder

app = typer.Typer(
    name="headsculpt",
    help="From a sentence to a 3D head avatar.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Preset = Annotated[str, typer.Option(help="draft, mini, sd15, sd15-fast, sd21, or a YAML file of your own.")]
Seed = Annotated[int, typer.Option(help="Of all randomness: the same seed gives the same head.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a saved avatar.")]
ExpressionOption = Annotated[
    list[str] | None, typer.Option("--expression", metavar="NAME=WEIGHT", help="ARKit's, 0 to 1: jawOpen=0.5.")
]
TurnOption = Annotated[
    list[str] | None, typer.Option("--turn", metavar="JOINT=X,Y,Z", help="Degrees: neck=0,20,0 looks to its left.")
]


def main(arguments: list[str] | None = None) -> None:
    """Entry point; ``--debug`` is taken anywhere on the line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console.debug = "--debug" in given
    console.set_up_logging()
    app(args=[a for a in given if a != "--debug"], prog_name="headsculpt")


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; goes with every command.")] = False,
) -> None:
    """From a sentence to a 3D head avatar."""


@app.command()
@command
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the head should look like.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, such as coarse.steps=200.")
    ] = None,
    preset: Preset = "mini",
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/ and the prompt's words by default.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    negative: Annotated[str, typer.Option(help="What the head should not look like.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")] = False,
) -> None:
    """Sculpt a head from a sentence."""
    from headsculpt.config import load_config
    from headsculpt.prompts import check_prompt
    from headsculpt.run_folder import RunFolder

    with usage():
        prompt = check_prompt(prompt)
        config = load_config(
            preset, settings or [], prompt=prompt, seed=seed, device=device, negative_prompt=negative
        )
        RunFolder.check_free(out := out or default_folder(prompt), overwrite=overwrite)
    check_means(config)
    run = RunFolder.create(out, config, overwrite=overwrite)
    sculpt_and_report(config, run)


@app.command()
@command
def edit(
    run: RunArgument,
    instruction: Annotated[
        str, typer.Argument(metavar="INSTRUCTION", help='What to change, such as "add round glasses".')
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, such as edit.mask=false.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/ and the instruction's words by default.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="0 keeps the head as it is, 1 follows the instruction alone; 0.95 by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all randomness; the head's own by default.")] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")] = False,
) -> None:
    """Change a finished head by a sentence; the head itself stays as it is."""
    from headsculpt.editing import check_apart, create_edit_run, edit_config
    from headsculpt.prompts import check_prompt
    from headsculpt.run_folder import RunFolder

    with usage():
        instruction = check_prompt(instruction, what="instruction")
    avatar = load_avatar(run)
    with usage():
        config = edit_config(
            avatar, instruction, strength=strength, seed=seed, device=device, overrides=settings or []
        )
        out = out or default_folder(instruction)
        check_apart(avatar, out)
        RunFolder.check_free(out, overwrite=overwrite)
    check_means(config)
    sculpt_and_report(config, create_edit_run(out, config, avatar, overwrite=overwrite))


@app.command()
@command
def resume(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Go on with a run that was interrupted."""
    from headsculpt.run_folder import RunFolder

    folder = RunFolder.open(run)
    config = folder.config()
    if folder.finished:
        print(f"{run} is finished: nothing is left to do")
        return
    check_means(config)
    sculpt_and_report(config, folder)


@app.command()
@command
def render(
    run: RunArgument,
    azimuth: Annotated[float, typer.Option(help="Degrees; 0 = front, 90 = the head's left side.")] = 0.0,
    elevation: Annotated[float, typer.Option(help="Degrees above the horizon, -89 to 89.")] = 5.0,
    resolution: Annotated[int, typer.Option(help="Rows and columns.")] = 512,
    half_height: Annotated[float, typer.Option(help="1.0 shows the bust, 0.5 the face.")] = 1.0,
    transparent: Annotated[bool, typer.Option("--transparent", help="Leave out the background.")] = False,
    albedo: Annotated[bool, typer.Option("--albedo", help="Without light.")] = False,
    expression: ExpressionOption = None,
    turn: TurnOption = None,
    out: Annotated[Path | None, typer.Option(help="Picture; render.png in the run by default.")] = None,
) -> None:
    """Draw one picture of a finished head."""
    from headsculpt.export.view import BACKGROUND
    from headsculpt.run_folder import write_image

    path = out or run / "render.png"
    with usage():
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise ValueError(f"a picture can be written as .png, .jpg or .webp; got {str(path)!r}")
        if not -90 < elevation < 90:
            raise ValueError(f"--elevation is {elevation:g}; expected more than -90 and less than 90 degrees")
        if not 0.05 <= half_height <= 10:
            raise ValueError(f"--half-height is {half_height:g}; expected 0.05 to 10 scene units")
        if not 1 <= resolution <= 4096:
            raise ValueError(f"--resolution is {resolution}; expected 1 to 4096 pixels")
    image = posed_avatar(run, expression, turn).render(
        azimuth,
        elevation,
        resolution,
        half_height=half_height,
        background=None if transparent else BACKGROUND,
        shaded=not albedo,
    )
    write_image(path, image.convert("RGB") if path.suffix.lower() in (".jpg", ".jpeg") else image)
    print(path)


@app.command()
@command
def turntable(
    run: RunArgument,
    out: Annotated[
        Path | None, typer.Option(help=".webp, .gif, .png or .mp4; turntable.mp4 in the run by default.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Pictures around the head.")] = 60,
    resolution: Annotated[int, typer.Option(help="Rows and columns.")] = 384,
    expression: ExpressionOption = None,
    turn: TurnOption = None,
) -> None:
    """Write a walk around a finished head."""
    from headsculpt.export.view import check_movie_path

    path = out or run / "turntable.mp4"
    with usage():
        check_movie_path(path)
        if frames < 1 or not 16 <= resolution <= 4096:
            raise ValueError(
                f"expected --frames 1 or more and --resolution 16 to 4096; got {frames}, {resolution}"
            )
    print(posed_avatar(run, expression, turn).turntable(path, frames, resolution))


@app.command()
@command
def export(
    run: RunArgument,
    paths: Annotated[list[Path], typer.Argument(help="Files to write: .glb, .obj or .ply.")],
    rig: Annotated[bool, typer.Option(help="Joints and expressions in a .glb.")] = True,
) -> None:
    """Write a finished head for other programs, in metres."""
    from headsculpt.avatar import EXPORT_SUFFIXES

    with usage():
        for path in paths:
            if path.suffix.lower() not in EXPORT_SUFFIXES:
                raise ValueError(f"a head can be exported as {', '.join(EXPORT_SUFFIXES)}; got {str(path)!r}")
    avatar = load_avatar(run)
    for path in paths:
        print(avatar.export(path, rig=rig))
        if rig and path.suffix.lower() == ".glb" and not avatar.can_move:
            print(f"{path} has no rig: it is not known which head this one was sculpted from", file=sys.stderr)


@app.command()
@command
def studio(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of runs; made if needed.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="Of the page; 0 takes any that is free.")] = 7860,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Sculpt and edit in a page of your browser; it is served to this machine only."""
    from headsculpt.studio.server import serve

    with usage():
        if not 0 <= port <= 65535:
            raise ValueError(f"--port is {port}; expected 0 to 65535")
    serve(folder, port, browser=browser)


@app.command()
@command
def doctor() -> None:
    """What this machine has: devices, back ends, weights; what is missing, and how to get it."""
    from headsculpt.doctor import report

    print(report())


@app.command()
@command
def fetch(
    prior: Annotated[str, typer.Argument(metavar="PRIOR", help="sd15, sd21, or a hub id.")],
    control: Annotated[
        list[str] | None, typer.Option(help="Only this ControlNet, may be repeated; all by default.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only say what is missing.")] = False,
) -> None:
    """Download a diffusion model into the local cache; no other command uses the network."""
    from headsculpt.priors.fetch import fetch_prior

    print(fetch_prior(prior, control, offline=offline, say=print))


@app.command("train-prior")
@command
def train_prior(
    stage: Annotated[
        str,
        typer.Argument(
            metavar="STAGE", help="data, text, head, vae, unet, clip, pairs, instruction, all, or export."
        ),
    ] = "all",
    work: Annotated[Path, typer.Option(help="Folder of data, states, logs and sample sheets.")] = Path(
        "training"
    ),
    minutes: Annotated[
        float | None, typer.Option(help="Budget; that of the shipped family by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps, which makes runs reproducible.")] = None,
    images: Annotated[int | None, typer.Option(help="Portraits in the data set.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder for the family; WORK/mini by default.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step; more on a GPU by default.")] = None,
    processes: Annotated[int, typer.Option(help="That share each batch; as many as cores is best.")] = 1,
    start: Annotated[
        Path | None, typer.Option(help="Prior folder whose weights a fresh stage starts from.")
    ] = None,
) -> None:
    """Train the mini prior on procedural portraits; goes on where it was interrupted."""
    import logging

    from headsculpt.devices import resolve_device
    from headsculpt.priors.training import train_prior as train

    logging.getLogger("headsculpt").setLevel(logging.INFO)
    with usage():
        chosen = resolve_device(device)
        keywords = {} if images is None else {"images": images}
        budget = {"minutes": minutes, "steps": steps}
        done = train(
            stage, work, **budget, device=chosen, seed=seed, out=out, batch=batch, processes=processes, start=start,
            **keywords,
        )  # fmt: skip
    if not done:
        print(f"stopped; the work is kept in {work}. Run the same command to go on.")
        raise typer.Exit(console.INTERRUPTED)


@app.command("learn-token")
@command
def learn_token(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The new word.")] = "<back-view>",
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures of backs of heads; the portrait world's where not given.")
    ] = None,
    prior: Annotated[str, typer.Option(help="mini, sd15, sd21, or a folder in the diffusers layout.")] = "mini",
    out: Annotated[
        Path, typer.Option(help="File to write; in a prior's folder tokens/ it is loaded with that prior.")
    ] = Path("tokens/back-view.safetensors"),
    work: Annotated[Path | None, typer.Option(help="Folder of the unfinished work; beside --out by default.")] = None,
    initial: Annotated[str, typer.Option(help="The word that it starts from.")] = "back",
    style: Annotated[
        str, typer.Option(help="Of the prompts: mini, headsculpt, or auto, which suits the prior.")
    ] = "auto",
    steps: Annotated[int, typer.Option(help="Of the optimiser.")] = 1000,
    batch: Annotated[int, typer.Option(help="Pictures a step.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 2e-3,
    portraits: Annotated[int, typer.Option(help="Back views of the portrait world, without --images.")] = 64,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file --out.")] = False,
) -> None:
    """Learn a word for views from behind (textual inversion); goes on where it was interrupted."""
    from headsculpt.devices import resolve_device
    from headsculpt.priors import textual_inversion as inversion
    from headsculpt.priors.catalogue import load_prior

    with usage():
        if style not in ("auto", "mini", "headsculpt"):
            raise ValueError(f"--style is {style!r}; expected auto, mini or headsculpt")
        if out.suffix != ".safetensors":
            raise ValueError(f"a learned token is written as .safetensors; got {str(out)!r}")
        if out.exists() and not overwrite:
            raise FileExistsError(f"{out} exists; give --out another file, or --overwrite to replace it")
        if min(steps, batch, portraits) < 1 or learning_rate <= 0:
            raise ValueError("--steps, --batch, --portraits and --learning-rate must be more than 0")
        chosen = resolve_device(device)
        loaded = load_prior(prior, device=chosen, controls=(), tokens=None)
        inversion.check_token(token, loaded.tokenizer, f"prior '{prior}'")
        try:
            examples = (
                inversion.world_images(portraits, loaded.image_size, seed)
                if images is None
                else inversion.read_images(images, loaded.image_size)
            )
        except FileNotFoundError as error:
            raise UsageError(str(error)) from error
        figures = inversion.learn_token(
            loaded, examples, out, work or out.with_suffix(".work"), token=token, initial=initial,
            style=None if style == "auto" else style,  # type: ignore[arg-type]
            steps=steps, batch=batch, learning_rate=learning_rate, seed=seed,
        )  # fmt: skip
    if figures is None:
        print(f"stopped; the work is kept in {work or out.with_suffix('.work')}. Run the same command to go on.")
        raise typer.Exit(console.INTERRUPTED)
    print("loss on pictures held out: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    print(f"done: {out}. Use it with prior.tokens=[{out}], or copy it into the prior's folder tokens/")


@app.command("convert-flame")
@command
def convert_flame(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="FLAME's own file, such as generic_model.pkl.")],
    out: Annotated[Path, typer.Option(help="File to write, .npz or .safetensors.")] = Path("flame.npz"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file --out.")] = False,
) -> None:
    """Turn the FLAME file that you have a licence for into plain arrays; nothing in it is executed."""
    from headsculpt.heads.flame import convert, save_model

    with usage():
        if out.exists() and not overwrite:
            raise FileExistsError(f"{out} exists; give --out another file, or --overwrite to replace it")
        try:
            save_model(convert(model), out)
        except FileNotFoundError as error:
            raise UsageError(str(error)) from error
    print(f"done: {out}. Use it with guidance.head={out}")


@app.command()
@command
def evaluate(
    prompts: Annotated[Path, typer.Argument(help="JSON file of prompts and what each expects.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs, the table and the contact sheet.")],
    preset: Preset = "mini",
    limit: Annotated[int | None, typer.Option(help="Only the first N prompts.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Sculpt every prompt of a file and let the judge read the results; goes on where it was stopped."""
    from headsculpt.evaluation.evaluate import evaluate_prompts, headline

    if not prompts.is_file():
        raise UsageError(f"there is no file {prompts}")
    print(headline(evaluate_prompts(prompts, preset=preset, out=out, limit=limit, seed=seed, device=device)))


@app.command()
@command
def fit(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images of one object.")],
    out: Annotated[Path, typer.Option(help="Folder for the mesh, a picture and the figures.")],
    cameras: Annotated[
        Path | None, typer.Option(help="Camera file of NeRF-synthetic's form; IMAGES/transforms.json by default.")
    ] = None,
    representation: Annotated[
        str, typer.Option(help="nerf; neus; dmtet: a NeuS, then a surface; texture: the colours of --mesh.")
    ] = "dmtet",
    mesh: Annotated[Path | None, typer.Option(help="Mesh file whose texture is wanted.")] = None,
    mesh_frame: Annotated[
        str,
        typer.Option(
            help="Coordinates of --mesh: cameras (the camera file's world), y-up (that world as Blender exports "
            "OBJ and glTF), or headsculpt (written by headsculpt fit for these images)."
        ),
    ] = "cameras",
    steps: Annotated[int, typer.Option(help="Of the optimiser, in all.")] = 1500,
    resolution: Annotated[int, typer.Option(help="Larger images are made smaller: rows and columns.")] = 256,
    up: Annotated[str, typer.Option(help="Axis of the camera file that points up: z (Blender) or y.")] = "z",
    light: Annotated[str, typer.Option(help="baked: as photographed; studio: lit by headsculpt itself.")] = "baked",
    texture_size: Annotated[int, typer.Option(help="Rows and columns of the texture.")] = 1024,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted fit in --out.")] = False,
) -> None:
    """Reconstruct an object from images with known cameras."""
    from dataclasses import replace

    from headsculpt import fit_outputs, fitting
    from headsculpt.devices import resolve_device
    from headsculpt.fit_checkpoint import FitCheckpoint
    from headsculpt.scene_mesh import MESH_FRAMES, read_mesh
    from headsculpt.transforms import read_posed_images

    with usage():
        for name, value, known in (
            ("representation", representation, fitting.REPRESENTATIONS),
            ("light", light, fitting.LIGHTS),
            ("mesh-frame", mesh_frame, MESH_FRAMES),
        ):
            if value not in known:
                raise ValueError(f"--{name} is {value!r}; expected {', '.join(known[:-1])} or {known[-1]}")
        if mesh is None and representation == "texture":
            raise ValueError("--representation texture needs --mesh FILE, whose colours are to be found")
        if mesh is not None and representation != "texture":
            raise ValueError(f"--mesh goes with --representation texture; got {representation}")
        if steps < 1:
            raise ValueError(f"--steps is {steps}; expected 1 or more")
        if not 16 <= texture_size <= 8192:
            raise ValueError(f"--texture-size is {texture_size}; expected 16 to 8192")
        chosen = resolve_device(device)
        fit_outputs.check_free(out, overwrite=overwrite, resume=resume)
        try:
            checkpoint = FitCheckpoint(out / fit_outputs.CHECKPOINT, resume=resume)
            posed = read_posed_images(images, cameras, resolution=resolution, up=up)
            shape = None if mesh is None else read_mesh(mesh, posed, mesh_frame, up)
        except FileNotFoundError as error:
            raise UsageError(str(error)) from error
    posed = replace(posed, images=posed.images.to(chosen), cameras=posed.cameras.to(chosen))
    try:
        with ProgressLine() as line:
            found = fitting.fit(
                posed.images,
                posed.cameras,
                representation=representation,
                steps=steps,
                seed=seed,
                light=light,
                mesh=shape,
                progress=line.show,
                checkpoint=checkpoint,
            )
            line.say("unwrapping, baking and writing")
            fit_outputs.write_fitted(found, posed, out, texture_size=texture_size)
    except KeyboardInterrupt:
        if not checkpoint.written:
            raise
        print("stopped; the work is kept. Run the same command with --resume to go on.")
        raise typer.Exit(console.INTERRUPTED) from None
    checkpoint.remove()
    for name, decibels in found.psnr.items():
        print(f"{name}: {decibels:.2f} dB on {len(found.held_out)} images that were held out")
    print(f"done: {out}/ has mesh.ply, mesh.glb, preview.png, metrics.json, and avatar/ for Avatar.load")


def sculpt_and_report(config: SculptConfig, run: RunFolder) -> None:
    """Says what will happen, sculpts with one live line, and says what was written."""
    from headsculpt.outputs import sculpt_run

    announce(config)
    resume_command = f"headsculpt resume {_quoted(run.path)}"
    with Interrupts() as interrupts, ProgressLine() as line:

        def on_progress(progress) -> None:  # noqa: ANN001  (Progress; its module loads torch)
            interrupts.in_loop = True
            line.show(progress)
            interrupts.check()

        def on_stage(words: str) -> None:
            interrupts.in_loop = False
            line.say(words)
            interrupts.check()

        try:
            sculpt_run(config, run, progress=on_progress, stage=on_stage)
        except KeyboardInterrupt:
            line.__exit__()
            print(f"stopped; the work is kept. Go on with:\n  {resume_command}")
            raise typer.Exit(console.INTERRUPTED) from None
        except OSError as error:
            raise type(error)(f"{error}. Go on with: {resume_command}") from error
    print(f"done: {run.path}/ has avatar.glb, preview.png, turntable.webp, and avatar/ for Avatar.load")


def announce(config: SculptConfig) -> None:
    """Device, back ends, prior, expected time and memory."""
    from headsculpt.devices import back_ends_in_use, describe_device, resolve_device
    from headsculpt.estimate import estimate, measured_teraflops

    device = resolve_device(config.device)
    if config.edit.instruction:
        print(f'edit       "{config.edit.instruction}" (strength {config.edit.strength:g})')
    print(f'prompt     "{config.prompt}" (preset {config.preset}, seed {config.seed})')
    if config.guidance.complete_prompt:
        from headsculpt.synthesis.completion import completed_prompt, in_near_words, unwanted, words_left_out

        told = config.edit.told or completed_prompt(config.prompt, config.seed)
        if told != config.prompt:
            print(f'told as    "{told}" (guidance.complete_prompt)')
        if config.guidance.keep_off and (away := unwanted(told)):
            print(f'kept off   "{away}" (guidance.keep_off)')
        if told != config.prompt and (left_out := words_left_out(config.prompt)):
            print(f"left out   {', '.join(left_out)}: the words that this prior knows have nothing near")
            if in_near_words(config.prompt) == "a person":
                print("           say what can be seen, such as 'an old man with a white beard', or use --preset sd15")
    print(f"device     {describe_device(device)}")
    print(f"back ends  {back_ends_in_use(device)}")
    print(f"prior      {config.prior.name}, controls: {', '.join(config.prior.controls) or 'none'}")
    print(f"expected   {estimate(config, device.type, measured_teraflops(device))}", flush=True)


def check_means(config: SculptConfig) -> None:
    """Fails before anything is written when the device or the prior is not there."""
    from headsculpt.devices import resolve_device
    from headsculpt.doctor import check_prior
    from headsculpt.priors.memory import check_offload

    check_offload(config.prior, resolve_device(config.device).type)
    check_prior(config.prior.name, config.prior.controls)
    if config.prior.tokens:
        from headsculpt.priors.tokens import read_token

        for path in config.prior.tokens:
            read_token(Path(path))
    if config.guidance.head != "builtin":
        from headsculpt.heads.flame import load_model

        load_model(config.guidance.head)


def posed_avatar(run: Path, expression: list[str] | None, turn: list[str] | None) -> Avatar:
    """The head in a run, with the expressions and turned joints that the command line asks for."""
    with usage():
        weights = {name: values[0] for name, values in named_numbers("--expression", expression, 1).items()}
        turns = named_numbers("--turn", turn, 3)
    avatar = load_avatar(run)
    if not weights and not turns:
        return avatar
    with usage():
        return avatar.posed(weights, turns)


def named_numbers(option: str, given: list[str] | None, count: int) -> dict[str, list[float]]:
    """``NAME=NUMBER,...`` to name -> numbers; ValueError says which one cannot be read."""
    found: dict[str, list[float]] = {}
    for text in given or []:
        name, equals, numbers = text.partition("=")
        try:
            found[name.strip()] = [float(number) for number in numbers.split(",")]
        except ValueError:
            equals = ""
        if not equals or len(found[name.strip()]) != count:
            wanted = "a number" if count == 1 else f"{count} numbers with commas between them"
            raise ValueError(f"{option} is {text!r}; expected a name, '=' and {wanted}")
    return found


def load_avatar(folder: Path) -> Avatar:
    from headsculpt.avatar import Avatar

    return Avatar.load(folder)


def default_folder(prompt: str) -> Path:
    """``runs/`` and the first words of the prompt."""
    from headsculpt.run_folder import named_after

    return Path("runs") / named_after(prompt)


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
