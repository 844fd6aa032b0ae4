"""The studio: its queue of runs, what it serves, and what it refuses."""

from __future__ import annotations

import http.client
import io
import json
import re
import shutil
import signal
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_editing import TINY, prior  # noqa: F401  (a fixture)
from typer.testing import CliRunner

from headsculpt import cli
from headsculpt.config import load_config
from headsculpt.console import INTERRUPTED
from headsculpt.run_folder import RunFolder
from headsculpt.studio import server as server_module
from headsculpt.studio.jobs import PRESETS, Job, Jobs
from headsculpt.studio.server import PAGE, Studio

# `headsculpt` as far as a run's folder shows it; a slow head is at work until it is stopped.
STAND_IN = """
import sys, time
from pathlib import Path
from headsculpt.config import load_config
from headsculpt.run_folder import RunFolder
words = sys.argv[-1]
out = [a.partition("=")[2] for a in sys.argv if a.startswith("--out=")]
if sys.argv[1] == "export":
    if "unlucky" in sys.argv[-2]:
        sys.exit("error: it fell apart")
    Path(words).write_bytes(b"a mesh")
    if words.endswith(".obj"):
        Path(words).with_suffix(".mtl").write_bytes(b"a material")
    sys.exit(0)
if sys.argv[1] == "resume":
    run = RunFolder.open(words)
    words = "an egg"
else:
    if "ghost" in words:
        print("note: of a library\\nerror: a ghost cannot be seen", flush=True)
        sys.exit(1)
    instruction = words if sys.argv[1] == "edit" else ""
    run = RunFolder.create(out[0], load_config("draft", ["edit.instruction=" + instruction], prompt=words))
print("coarse 1/4  loss 0.1  0:30 gone, 1:30 left", flush=True)
(run.previews / "coarse-00001.png").write_bytes(b"on the way")
try:
    while "slow" in words:
        time.sleep(0.02)
except KeyboardInterrupt:
    sys.exit(130)
run.avatar.mkdir(exist_ok=True)
(run.avatar / "avatar.json").write_text('{"lineage": ["an egg"]}' if sys.argv[1] == "edit" else '{"lineage": []}')
for name in ("avatar.glb", "preview.png", "turntable.webp"):
    (run.path / name).write_bytes(name.encode())
"""
SIGTERM_STOPS = "import signal\nsignal.signal(signal.SIGTERM, signal.default_int_handler)\n"


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture
def jobs(tmp_path) -> Iterator[Jobs]:
    made = Jobs(tmp_path / "runs", [sys.executable, "-c", SIGTERM_STOPS + STAND_IN])
    yield made
    made.close()


def head(jobs: Jobs, name: str) -> dict:
    return next(each for each in jobs.heads() if each["name"] == name)


def state(jobs: Jobs, name: str) -> str:
    return head(jobs, name)["state"]


def test_runs_go_one_after_the_other_and_are_stopped_and_resumed(jobs):
    first, second = jobs.generate("a slow egg"), jobs.generate("an egg", "draft", 3)
    assert (first, second) == ("slow-egg", "egg")
    until(lambda: head(jobs, first)["share"] > 0)
    shown = head(jobs, first)
    assert shown["state"] == "running" and shown["share"] == 0.25 and shown["picture"] > 0
    assert shown["note"] == "coarse 1/4  loss 0.1  0:30 gone, 1:30 left"
    assert state(jobs, second) == "waiting"
    with pytest.raises(ValueError, match="'slow-egg' is at work already"):
        jobs.resume(first)
    jobs.stop(first)
    until(lambda: state(jobs, second) == "finished")
    assert state(jobs, first) == "stopped" and head(jobs, second)["seed"] == 0  # the stand-in's own
    jobs.resume(first)
    until(lambda: state(jobs, first) == "finished")
    with pytest.raises(ValueError, match="'slow-egg' is finished: nothing is left to do"):
        jobs.resume(first)
    with pytest.raises(ValueError, match="'slow-egg' is not at work"):
        jobs.stop(first)


def test_an_edit_names_what_it_was_made_from_and_folders_are_never_shared(jobs):
    name = jobs.generate("an egg")
    until(lambda: state(jobs, name) == "finished")
    edits = [jobs.edit(name, "add a hat", 0.5), jobs.edit(name, "add a hat")]
    assert edits == ["add-hat", "add-hat-2"] and jobs.generate("the egg") == "egg-2"
    until(lambda: state(jobs, "add-hat-2") == "finished")
    shown = head(jobs, "add-hat")
    assert shown["instruction"] == "add a hat" and shown["lineage"] == ["an egg"]


def test_a_failure_says_why_and_what_waits_can_be_taken_back(jobs):
    name = jobs.generate("a ghost")
    until(lambda: state(jobs, name) == "failed")
    assert head(jobs, name)["note"] == "a ghost cannot be seen"
    slow, waiting = jobs.generate("a slow egg"), jobs.generate("another egg")
    until(lambda: head(jobs, slow)["picture"])
    jobs.stop(waiting)
    assert waiting not in [each["name"] for each in jobs.heads()]
    jobs.stop(slow)
    until(lambda: state(jobs, slow) == "stopped")


@pytest.mark.parametrize(
    "given, message",
    [
        (("",), "the prompt is empty"),
        (("an \0 egg",), r"the prompt holds '\x00', which is no character; type it anew"),
        (("an \ud800 egg",), r"the prompt holds '\ud800', which is no character"),
        (("egg " * 101,), "the prompt has 101 words and the limit is 100"),
        (("an egg", "maxi"), f"unknown preset 'maxi'; expected one of {', '.join(PRESETS)}"),
        (("an egg", "mini", -1), "seed is -1"),
    ],
)
def test_what_cannot_be_sculpted_is_refused_before_it_waits(jobs, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        jobs.generate(*given)
    assert jobs.heads() == []


def test_edits_are_checked_before_they_wait(jobs):
    for instruction, strength, message in (
        ("", None, "the instruction is empty"),
        ("add a hat", None, "there is no head 'nobody'"),
    ):
        with pytest.raises(ValueError, match=message):
            jobs.edit("nobody", instruction, strength)
    RunFolder.create(jobs.folder / "begun", load_config("draft", prompt="an egg"))
    with pytest.raises(ValueError, match="'begun' is not finished, so it cannot be edited yet"):
        jobs.edit("begun", "add a hat")
    name = jobs.generate("an egg")
    until(lambda: state(jobs, name) == "finished")
    with pytest.raises(ValueError, match="strength is 3; expected 0 to 2"):
        jobs.edit(name, "add a hat", 3)


def test_closing_stops_what_runs_and_takes_nothing_new(tmp_path):
    jobs = Jobs(tmp_path, [sys.executable, "-c", SIGTERM_STOPS + STAND_IN])
    name = jobs.generate("a slow egg")
    until(lambda: head(jobs, name)["picture"])
    waiting = jobs.generate("another egg")
    jobs.close()
    assert state(jobs, name) == "stopped" and not (tmp_path / waiting).exists()
    with pytest.raises(ValueError, match="the studio is closing"):
        jobs.generate("an egg")


def test_a_program_that_is_not_there_is_a_failure(tmp_path):
    jobs = Jobs(tmp_path, [str(tmp_path / "nothing")])
    name = jobs.generate("an egg")
    until(lambda: state(jobs, name) == "failed")
    assert "nothing" in head(jobs, name)["note"]
    jobs.close()


def test_what_a_run_says_of_its_time():
    job = Job("egg", "an egg", [])
    assert job.share == 0
    job.lines.extend(["coarse 1/2  1:00:00 gone, 20:00 left", "unwrapping"])
    assert job.share == 0.75


def test_a_folder_that_cannot_be_read_is_shown_with_the_reason(jobs):
    run = RunFolder.create(jobs.folder / "broken", load_config("draft", prompt="an egg"))
    run.config_path.write_text("prompt: [")
    assert head(jobs, "broken")["state"] == "failed" and "config.yaml" in head(jobs, "broken")["note"]


def test_folders_that_are_not_ours_to_read_or_just_deleted_are_left_out(jobs, monkeypatch):
    RunFolder.create(jobs.folder / "ours", load_config("draft", prompt="an egg"))
    RunFolder.create(jobs.folder / "theirs", load_config("draft", prompt="an egg"))
    readable = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent.name == "theirs":
            raise PermissionError(13, "Permission denied", str(path))
        return readable(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert [each["name"] for each in jobs.heads()] == ["ours"]


def test_a_run_that_another_program_is_at_work_on(jobs):
    run = RunFolder.create(jobs.folder / "egg", load_config("draft", prompt="an egg"))
    with run.at_work():
        assert state(jobs, "egg") == "busy"
        with pytest.raises(ValueError, match="'egg' is at work already"):
            jobs.resume("egg")
    assert state(jobs, "egg") == "stopped"


def test_a_second_stop_does_not_interrupt_the_end_of_the_step(tmp_path):
    # The first signal is taken as a wish; a second one would end it at once.
    patient = STAND_IN.replace('while "slow" in words:', "while not signals:").replace(
        "run.avatar.mkdir", "time.sleep(0.3)\nassert len(signals) == 1, signals\nsys.exit(130)\nrun.avatar.mkdir"
    )
    wish = "import signal\nsignals = []\nsignal.signal(signal.SIGTERM, lambda *_: signals.append(1))\n"
    jobs = Jobs(tmp_path, [sys.executable, "-c", wish + patient])
    name = jobs.generate("a slow egg")
    until(lambda: head(jobs, name)["picture"])
    jobs.stop(name)
    assert state(jobs, name) == "stopping"
    jobs.stop(name)
    until(lambda: state(jobs, name) != "stopping")
    assert state(jobs, name) == "stopped" and jobs._jobs[name].status == INTERRUPTED
    jobs.close()


def test_a_deleted_head_is_no_longer_shown(jobs):
    name = jobs.generate("an egg")
    until(lambda: state(jobs, name) == "finished")
    shutil.rmtree(jobs.folder / name)
    assert jobs.heads() == []


def test_a_process_that_cannot_be_started_does_not_hold_up_the_others(jobs, monkeypatch):
    monkeypatch.setattr("headsculpt.studio.jobs.check_prompt", lambda text, **_: text)
    bad, good = jobs.generate("a nul \0"), jobs.generate("an egg")
    until(lambda: state(jobs, good) == "finished")
    assert state(jobs, bad) == "failed" and "null byte" in head(jobs, bad)["note"]


@pytest.fixture
def studio(tmp_path) -> Iterator[Studio]:
    made = Studio(tmp_path / "runs", 0)
    made.jobs.program = [sys.executable, "-c", SIGTERM_STOPS + STAND_IN]
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def ask(studio: Studio, method: str, path: str, given: object = None, **headers: str) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", studio.server_port)
    body = None if given is None else given if isinstance(given, bytes) else json.dumps(given).encode()
    sent = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(method, path, body, {**sent, **{k.replace("_", "-"): v for k, v in headers.items()}})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, answer.headers["Content-Type"]


def test_the_page_and_all_that_it_asks_for_is_served(studio):
    status, page, kind = ask(studio, "GET", "/")
    assert status == 200 and kind.startswith("text/html") and page == (PAGE / "index.html").read_bytes()
    script = (PAGE / "studio.js").read_text(encoding="utf-8")
    for name in {*re.findall(r'(?:src|href)="/([^"]+)"', page.decode()), *re.findall(r'from "/([^"]+)"', script)}:
        status, content, _ = ask(studio, "GET", f"/{name}")
        assert status == 200 and content == (PAGE / name).read_bytes()
    for identity in re.findall(r'find\("(\w+)"\)', script):
        assert f'id="{identity}"' in page.decode(), identity
    assert "MIT" in (PAGE / "three.LICENSE.txt").read_text(encoding="utf-8")
    text = page.decode() + script + (PAGE / "studio.css").read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text  # it works without a network


def test_the_pages_faces_are_made_of_the_rigs_expressions():
    from headsculpt.heads.expressions import EXPRESSION_NAMES

    script = (PAGE / "studio.js").read_text(encoding="utf-8")
    faces = script[script.index("const FACES") : script.index("const VIEWS")]
    named = re.findall(r"(\w+): [\d.]", faces)
    assert named and set(named) <= set(EXPRESSION_NAMES)


def test_a_head_is_ordered_shown_and_taken_along(studio):
    status, content, _ = ask(studio, "POST", "/api/generate", {"prompt": "an egg", "preset": "draft", "seed": 1})
    assert (status, json.loads(content)) == (200, {"name": "egg"})
    until(lambda: json.loads(ask(studio, "GET", "/api/heads")[1])["heads"][0]["state"] == "finished")
    assert ask(studio, "GET", "/heads/egg/avatar.glb?1") == (200, b"avatar.glb", "model/gltf-binary")
    assert ask(studio, "GET", "/heads/egg/picture") == (200, b"preview.png", "image/png")
    assert ask(studio, "GET", "/heads/egg/avatar.ply") == (200, b"a mesh", "application/octet-stream")
    status, content, kind = ask(studio, "GET", "/heads/egg/avatar.obj.zip")
    assert (status, kind) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["avatar.mtl", "avatar.obj"] and archive.read("avatar.obj") == b"a mesh"
    assert ask(studio, "POST", "/api/edit", {"source": "egg", "instruction": "add a slow hat"})[0] == 200
    until(lambda: ask(studio, "GET", "/heads/add-slow-hat/picture")[1] == b"on the way")
    assert ask(studio, "POST", "/api/stop", {"name": "add-slow-hat"})[:2] == (200, b"{}")
    until(lambda: state(studio.jobs, "add-slow-hat") == "stopped")
    assert ask(studio, "POST", "/api/resume", {"name": "add-slow-hat"})[:2] == (200, b"{}")
    until(lambda: state(studio.jobs, "add-slow-hat") == "finished")


@pytest.mark.parametrize(
    "method, path, given, headers, status, message",
    [
        ("GET", "/api/heads", None, {"Host": "sculpt.example:80"}, 403, "asked as 'sculpt.example'"),
        ("GET", "/nothing", None, {}, 404, "there is nothing at /nothing"),
        ("GET", "/../jobs.py", None, {}, 404, "there is nothing at /../jobs.py"),
        ("GET", "/%2e%2e/server.py", None, {}, 404, "there is nothing at /../server.py"),
        ("GET", "/heads/egg/avatar.glb", None, {}, 400, "there is no head 'egg'"),
        ("GET", "/heads/../avatar.glb", None, {}, 400, "there is no head '..'"),
        ("GET", "/heads/real/config.yaml", None, {}, 404, "'real' has no config.yaml"),
        ("GET", "/heads/real/picture", None, {}, 404, "'real' has no picture"),
        ("GET", "/heads/real/avatar.ply", None, {}, 400, "'real' is not finished, so it cannot be exported yet"),
        ("GET", "/heads/unlucky/avatar.ply", None, {}, 400, "it fell apart"),
        ("POST", "/api/nothing", {}, {}, 404, "there is nothing at /api/nothing"),
        ("POST", "/api/generate", {"prompt": " "}, {}, 400, "the prompt is empty"),
        ("POST", "/api/generate", {}, {}, 400, "prompt must be text; got None"),
        ("POST", "/api/generate", {"prompt": "an egg", "seed": 1.5}, {}, 400, "seed must be a whole number; got 1.5"),
        ("POST", "/api/generate", [], {}, 400, "an order is a JSON object; got list"),
        ("POST", "/api/generate", b"{", {}, 400, "Expecting property name"),
        ("POST", "/api/generate", b"{}", {"Content_Type": "text/plain"}, 415, "orders are application/json"),
        ("POST", "/api/generate", b" " * 100_001, {}, 413, "an order has at most 100000 bytes"),
        ("POST", "/api/edit", {"source": "a", "instruction": "b", "strength": "c"}, {}, 400, "strength must be a num"),
        ("POST", "/api/edit", {"source": "a", "instruction": "b", "strength": True}, {}, 400, "strength must be a num"),
        ("POST", "/api/stop", {"name": "egg"}, {}, 400, "'egg' is not at work"),
        ("POST", "/api/resume", {"name": "egg"}, {}, 400, "there is no head 'egg'"),
    ],
)
def test_what_is_refused(studio, method, path, given, headers, status, message):
    RunFolder.create(studio.jobs.folder / "real", load_config("draft", prompt="an egg"))
    unlucky = RunFolder.create(studio.jobs.folder / "unlucky", load_config("draft", prompt="an egg"))
    unlucky.avatar.mkdir(exist_ok=True)
    (unlucky.avatar / "avatar.json").write_text('{"lineage": []}')
    for name in ("avatar.glb", "preview.png", "turntable.webp"):
        (unlucky.path / name).write_bytes(b"")
    found, content, _ = ask(studio, method, path, given, **headers)
    assert found == status and message in json.loads(content)["error"]


def test_other_sites_cannot_frame_it_and_a_defect_is_answered(studio, monkeypatch, capsys):
    def broken() -> list:
        raise LookupError("lost")

    monkeypatch.setattr(studio.jobs, "heads", broken)
    connection = http.client.HTTPConnection("127.0.0.1", studio.server_port)
    connection.request("GET", "/api/heads")
    answer = connection.getresponse()
    assert answer.status == 500 and "LookupError: lost (a defect of headsculpt)" in answer.read().decode()
    assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "LookupError" in capsys.readouterr().err


def test_a_port_that_is_taken(studio, tmp_path, capsys):
    port = studio.server_port
    result = CliRunner().invoke(cli.app, ["studio", str(tmp_path), "--port", str(port), "--no-browser"])
    assert result.exit_code == 1
    result = CliRunner().invoke(cli.app, ["studio", str(tmp_path), "--port", "70000", "--no-browser"])
    assert result.exit_code == 2
    with pytest.raises(OSError, match=rf"port {port} cannot be had \(.*\); give --port another, or 0"):
        Studio(tmp_path, port)


def test_the_command_serves_until_it_is_interrupted(tmp_path, capsys, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(server_module.webbrowser, "open", opened.append)

    def interrupted(self: Studio) -> None:
        with socket.create_connection(("127.0.0.1", self.server_port)):
            raise KeyboardInterrupt

    monkeypatch.setattr(Studio, "serve_forever", interrupted)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    server_module.serve(tmp_path / "runs", 0)
    assert signal.getsignal(signal.SIGHUP) is signal.default_int_handler
    for number, handler in handlers.items():
        signal.signal(number, handler)
    until(lambda: opened)
    said = capsys.readouterr().out
    assert opened == [re.search(r"http://127.0.0.1:\d+/", said).group()]
    assert "closing: what is at work is kept" in said and (tmp_path / "runs").is_dir()


@pytest.mark.slow
def test_a_head_is_sculpted_and_edited_by_the_real_program(studio, prior):  # noqa: F811
    # Settings follow the prompt on the command line; the studio itself gives none.
    studio.jobs.program = [
        sys.executable, "-c",
        "import sys\nfrom headsculpt.cli import main\nmain([*sys.argv[1:], *(sys.argv[1] in ('generate', 'edit')) * "
        f"{[*TINY, f'prior.name={prior}']!r}])",
    ]  # fmt: skip
    ask(studio, "POST", "/api/generate", {"prompt": "a man with a red cap", "preset": "draft"})
    until(lambda: state(studio.jobs, "man-red-cap") in ("finished", "failed"), 300)
    assert state(studio.jobs, "man-red-cap") == "finished", head(studio.jobs, "man-red-cap")["note"]
    assert ask(studio, "GET", "/heads/man-red-cap/avatar.glb")[1][:4] == b"glTF"
    assert ask(studio, "GET", "/heads/man-red-cap/avatar.ply")[1][:3] == b"ply"
    ask(studio, "POST", "/api/edit", {"source": "man-red-cap", "instruction": "take off the cap", "strength": 0.9})
    until(lambda: state(studio.jobs, "take-off-cap") in ("finished", "failed"), 300)
    shown = head(studio.jobs, "take-off-cap")
    assert shown["state"] == "finished", shown["note"]
    assert shown["lineage"] == ["a man with a red cap"] and shown["instruction"] == "take off the cap"
    assert Path(studio.jobs.folder / "take-off-cap" / "source").is_dir()
