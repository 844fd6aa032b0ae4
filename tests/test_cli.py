"""The command line: what it writes, says and returns, above all when something is wrong."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from stand_ins import finished_egg, textured_egg

from headsculpt import cli, sculpting
from headsculpt.avatar import Avatar, AvatarInfo
from headsculpt.config import load_config
from headsculpt.run_folder import RunFolder
from headsculpt.sculpting import Progress

SMALL = [
    "output.texture_size=64", "output.max_faces=1000", "output.turntable_frames=2",
    "output.turntable_size=32", "output.preview_size=32",
]  # fmt: skip


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs ``headsculpt ARGUMENTS``; returns exit status, stdout and stderr on one line each."""
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(a) for a in arguments])
        output = capsys.readouterr()
        return caught.value.code or 0, output.out, " ".join(output.err.split())

    return run


@pytest.fixture
def quick(monkeypatch):
    """Replaces the loop by three steps that make an egg, and the prior's check by nothing."""

    def sculpt(config, run, *, guidance=None, progress=None):
        checkpoint = run.load_checkpoint()
        for step in range(checkpoint["step"] if checkpoint else 0, 3):
            run.log({"step": step})
            try:
                progress(Progress("coarse", step + 1, 3, 0.5, step, 3 - step))
            except KeyboardInterrupt:
                run.save_checkpoint("coarse", step + 1, {})
                raise
        return finished_egg()

    monkeypatch.setattr(sculpting, "sculpt", sculpt)
    monkeypatch.setattr("headsculpt.doctor.check_prior", lambda name, controls: None)
    return sculpt


@pytest.fixture
def saved(tmp_path):
    return Avatar(textured_egg(), AvatarInfo(prompt="an egg")).save(tmp_path / "saved")


def test_generate_writes_all_outputs_and_says_what_it_does(command, quick, tmp_path):
    out = tmp_path / "run"
    status, said, complaints = command("generate", "an egg", *SMALL, "--out", out, "--preset", "draft", "--seed", 4)
    assert (status, complaints) == (0, "")
    names = {"config.yaml", "progress.jsonl", "previews", "checkpoints", "avatar", "avatar.glb", "preview.png"}
    assert {p.name for p in out.iterdir()} == names | {"turntable.webp"}
    for word in ("device", "back ends", "prior", "expected", "GB of memory", "coarse 3/3", "done"):
        assert word in said
    assert RunFolder.open(out).config().seed == 4
    status, said, _ = command("resume", out)
    assert status == 0 and "is finished" in said


def test_ctrl_c_keeps_the_work_and_resume_gives_the_same_avatar(command, quick, tmp_path, monkeypatch):
    assert command("generate", "an egg", *SMALL, "--out", tmp_path / "whole")[0] == 0
    shown = []

    def interrupt(line, progress):
        shown.append(progress.step)
        if shown == [1, 2]:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(cli.ProgressLine, "show", interrupt)
    status, said, _ = command("generate", "an egg", *SMALL, "--out", tmp_path / "cut")
    assert status == 130
    assert f"the work is kept. Go on with:\n  headsculpt resume {tmp_path / 'cut'}" in said
    assert command("resume", tmp_path / "cut")[0] == 0
    assert shown == [1, 2, 3]
    for path in (tmp_path / "whole" / "avatar").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / "avatar" / path.name).read_bytes()


def test_a_run_that_is_there_is_refused_until_overwritten(command, quick, tmp_path):
    out = tmp_path / "run"
    assert command("generate", "an egg", *SMALL, "--out", out)[0] == 0
    status, _, complaint = command("generate", "a hen", *SMALL, "--out", out)
    assert status == 2 and "holds another run; continue it with 'headsculpt resume" in complaint
    assert command("generate", "a hen", *SMALL, "--out", out, "--overwrite")[0] == 0
    assert RunFolder.open(out).config().prompt == "a hen"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["  "], "the prompt is empty; describe a head in a few words"),
        (["beard " * 2000], "the prompt has 2000 words and the limit is"),
        (["an egg", "--preset", "minni"], "unknown preset 'minni' (did you mean mini?)"),
        (["an egg", "coarse.stepps=3"], "unknown setting 'coarse.stepps' (did you mean coarse.steps?)"),
        (["an egg", "coarse.steps=many"], "coarse.steps should be a whole number"),
        (["an egg", "--device", "tpu"], "device is 'tpu'; expected one of auto, cpu, cuda"),
        (["an egg", "--sed", "3"], "--sed"),
        ([], "PROMPT"),
    ],
)
def test_usage_errors_exit_with_2_and_write_nothing(command, tmp_path, arguments, message):
    status, _, complaint = command("generate", *arguments, "--out", tmp_path / "run")
    assert status == 2 and message in complaint
    assert "Traceback" not in complaint
    assert not (tmp_path / "run").exists()


def test_an_unwritable_folder(command, quick, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, complaint = command("generate", "an egg", "--out", tmp_path / "file" / "run")
    assert status == 1 and complaint.endswith("a part of the path is a file, not a folder: choose another folder")
    status, _, complaint = command("generate", "an egg", "--out", tmp_path / "file")
    assert status == 2 and complaint.endswith("is a file; give --out a folder")


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a CUDA device")
def test_cuda_where_there_is_none(command, tmp_path):
    status, _, complaint = command("generate", "an egg", "--device", "cuda", "--out", tmp_path / "run")
    assert status == 1
    assert "--device cuda was asked for, but torch" in complaint
    assert complaint.endswith("use --device auto or --device cpu")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def tiny_prior(tmp_path_factory):
    """A whole prior folder of tiny random networks."""
    from headsculpt.priors.catalogue import random_prior

    folder = tmp_path_factory.mktemp("prior")
    prior = random_prior("tiny", controls=("landmarks",))
    for name in ("tokenizer", "text_encoder", "vae", "unet", "scheduler"):
        getattr(prior, name).save_pretrained(folder / name)
    prior.controlnets["landmarks"].save_pretrained(folder / "controlnet_landmarks")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing unet/diffusion_pytorch_model.safetensors", "is incomplete"),
        ("truncated vae/diffusion_pytorch_model.safetensors", "probably an interrupted copy"),
        ("missing controlnet_landmarks/config.json", "ControlNet"),
    ],
)
def test_a_prior_with_a_bad_file(command, tiny_prior, tmp_path, damage, message):
    import shutil

    kind, name = damage.split()
    prior = tmp_path / "prior"
    shutil.copytree(tiny_prior, prior)
    if kind == "missing":
        (prior / name).unlink()
    else:
        (prior / name).write_bytes((prior / name).read_bytes()[:-100])
    status, _, complaint = command("generate", "an egg", f"prior.name={prior}", "--out", tmp_path / "run")
    assert status == 1
    assert message in complaint and str(prior / name) in complaint and "Traceback" not in complaint
    assert not (tmp_path / "run").exists()


def test_a_prior_of_another_name(command, tmp_path):
    status, _, complaint = command("generate", "an egg", "prior.name=miny", "--out", tmp_path / "run")
    assert status == 1 and "unknown prior 'miny' (did you mean 'mini'?)" in complaint


def test_failures_are_one_sentence_unless_debugging(command, quick, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise KeyError("what")

    monkeypatch.setattr(sculpting, "sculpt", fails)
    status, _, complaint = command("generate", "an egg", "--out", tmp_path / "run")
    assert status == 1 and complaint.endswith("KeyError: 'what' (a defect of headsculpt; --debug shows where)")
    with pytest.raises(KeyError):
        cli.main(["generate", "an egg", "--out", str(tmp_path / "run"), "--debug"])
    cli.console.debug = False


def test_memory_that_runs_out_says_what_to_make_smaller(command, quick, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp]\nDefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(sculpting, "sculpt", fails)
    status, _, complaint = command("generate", "an egg", "--out", tmp_path / "run")
    assert status == 1 and "out of memory; make the work smaller" in complaint


def test_resume_of_what_is_no_run(command, tmp_path):
    status, _, complaint = command("resume", tmp_path / "none")
    assert status == 1 and "there is no folder" in complaint
    status, _, complaint = command("resume", tmp_path)
    assert status == 1 and "is no run folder: it has no config.yaml" in complaint


def test_render_turntable_export(command, saved, tmp_path):
    status, said, _ = command("render", saved, "--azimuth", 90, "--resolution", 32, "--out", tmp_path / "a.jpg")
    assert status == 0 and Path(said.strip()).is_file()
    assert command("render", saved, "--resolution", 32, "--transparent", "--albedo")[0] == 0
    status, _, _ = command("turntable", saved, "--frames", 2, "--resolution", 32, "--out", tmp_path / "a.gif")
    assert status == 0 and (tmp_path / "a.gif").is_file()
    status, said, _ = command("export", saved, tmp_path / "a.glb", tmp_path / "a.obj", tmp_path / "a.ply")
    assert status == 0 and all(Path(line).is_file() for line in said.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["render", "SAVED", "--resolution", "0"], "--resolution is 0; expected 1 to 4096 pixels"),
        (["render", "SAVED", "--elevation", "90"], "--elevation is 90"),
        (["render", "SAVED", "--half-height", "0"], "--half-height is 0"),
        (["render", "SAVED", "--out", "a.tga"], "a picture can be written as .png, .jpg or .webp; got 'a.tga'"),
        (["turntable", "SAVED", "--out", "a.avi"], "a turntable can be written as"),
        (["turntable", "SAVED", "--frames", "0"], "expected --frames 1 or more"),
        (["export", "SAVED", "a.stl"], "a head can be exported as .glb, .obj, .ply; got 'a.stl'"),
        (["evaluate", "nowhere.json", "--out", "x"], "there is no file nowhere.json"),
    ],
)
def test_usage_errors_of_the_other_commands(command, saved, arguments, message):
    status, _, complaint = command(*[saved if a == "SAVED" else a for a in arguments])
    assert status == 2 and message in complaint


def test_render_of_a_folder_without_avatar(command, tmp_path):
    status, _, complaint = command("render", tmp_path)
    assert status == 1 and "holds no avatar" in complaint


def test_doctor_names_back_ends_licences_and_weights(command):
    status, said, _ = command("doctor")
    assert status == 0
    for word in ("threads", "numba", "nvdiffrast", "non-commercial", "pip install", "mini", "sd15", "hf download"):
        assert word in said


def test_fetch_without_network_or_of_an_unknown_name(command, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    status, _, complaint = command("fetch", "sd15", "--offline")
    assert status == 1 and "--offline was given, so nothing is fetched" in complaint
    status, _, complaint = command("fetch", "sd16")
    assert status == 1 and "there is nothing to fetch for 'sd16'" in complaint
    status, _, complaint = command("generate", "an egg", "--preset", "sd15", "--out", tmp_path / "run")
    assert status == 1 and "get it with: headsculpt fetch sd15" in complaint and not (tmp_path / "run").exists()
    offload = ("prior.offload=model", "--device", "cpu", "--out", tmp_path / "run")
    status, _, complaint = command("generate", "an egg", *offload)
    assert status == 1 and "prior.offload=model moves networks from a CUDA device" in complaint


def test_default_folder_is_made_of_the_prompts_words():
    folder = cli.default_folder("An old man with a white beard and round glasses, please")
    assert folder == Path("runs/old-man-white-beard-round-glasses")
    assert cli.default_folder("???") == Path("runs/head")


def test_help_loads_nothing_that_is_slow_to_load():
    program = (
        "import sys\n"
        "from headsculpt.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as error:\n    assert not error.code\n"
        "bad = {'torch', 'diffusers', 'transformers', 'numba', 'numpy'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "generate" in done.stdout and "train-prior" in done.stdout


def test_interrupts_outside_the_loop_are_immediate_and_inside_are_kept():
    before = signal.getsignal(signal.SIGINT)  # a background job has it ignored
    interrupts = cli.Interrupts()
    with interrupts:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        interrupts.in_loop = True
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(signal.SIGINT) is before
    with_thread = threading.Thread(target=cli.Interrupts().__enter__)  # no signals there, and no error either
    with_thread.start()
    with_thread.join()


def test_what_the_prior_has_no_words_for_is_named_before_the_run(capsys):
    cli.announce(load_config("draft", prompt="a man with blue eyes and a beard"))
    said = capsys.readouterr().out
    assert 'told as    "a pale man with short black hair and a black beard, wearing a red t-shirt"' in said
    assert "left out   blue, eyes: the words that this prior knows have nothing near" in said
    cli.announce(load_config("draft", prompt="a man with a beard"))
    assert "left out" not in capsys.readouterr().out
    cli.announce(load_config("draft", prompt="qwerty"))
    said = capsys.readouterr().out
    assert 'told as    "a pale person with short black hair, wearing a grey t-shirt"' in said
    assert 'kept off   "a moustache" (guidance.keep_off)' in said
    assert "say what can be seen, such as 'an old man with a white beard', or use --preset sd15" in said
