"""Run folders: refusals, atomic writes, checkpoints that survive damage."""

import errno
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from headsculpt.config import load_config
from headsculpt.run_folder import BusyError, RunFolder, write_atomically


@pytest.fixture
def config():
    return load_config("draft", prompt="an elf")


def test_create_then_open_gives_the_same_settings(tmp_path, config):
    RunFolder.create(tmp_path / "a" / "b", config)
    assert RunFolder.open(tmp_path / "a" / "b").config() == config


def test_another_run_is_refused_unless_overwritten(tmp_path, config):
    run = RunFolder.create(tmp_path / "run", config)
    run.save_checkpoint("coarse", 1, {"x": torch.ones(1)})
    keep = run.path / "notes.txt"
    keep.write_text("mine")
    with pytest.raises(FileExistsError, match="holds another run; continue it with 'headsculpt resume .*--overwrite"):
        RunFolder.create(tmp_path / "run", config)
    again = RunFolder.create(tmp_path / "run", config, overwrite=True)
    assert again.load_checkpoint() is None
    assert keep.read_text() == "mine"


def test_a_folder_of_other_things_is_never_overwritten(tmp_path, config):
    (tmp_path / "previews").mkdir()
    with pytest.raises(FileExistsError, match="no run of headsculpt; give --out an empty or a new folder"):
        RunFolder.create(tmp_path, config, overwrite=True)
    assert (tmp_path / "previews").is_dir()


def test_a_path_below_a_file_is_refused(tmp_path, config):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write .*a part of the path is a file, not a folder"):
        RunFolder.create(tmp_path / "file" / "run", config)


def test_open_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="is no run folder: it has no config.yaml"):
        RunFolder.open(tmp_path)


def test_checkpoints_bring_back_state_and_random_numbers(tmp_path, config):
    run = RunFolder.create(tmp_path, config)
    torch.manual_seed(5)
    np.random.seed(5)
    state = {"weights": torch.randn(3), "optimiser": {"step": 4, "betas": [0.9, 0.99]}}
    run.save_checkpoint("coarse", 4, state)
    expected = torch.rand(2), np.random.rand(2), torch.randn(3)
    torch.manual_seed(0)
    loaded = run.load_checkpoint()
    assert loaded is not None
    assert (loaded["stage"], loaded["step"]) == ("coarse", 4)
    assert torch.equal(loaded["state"]["weights"], state["weights"])
    assert loaded["state"]["optimiser"] == state["optimiser"]
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.rand(2), expected[1])


def test_only_the_last_two_are_kept(tmp_path, config):
    run = RunFolder.create(tmp_path, config)
    for step in range(5):
        run.save_checkpoint("coarse", step, {})
    assert len(list(run.checkpoints.iterdir())) == 2
    assert run.load_checkpoint()["step"] == 4


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "pickle"])
def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path, config, damage):
    run = RunFolder.create(tmp_path, config)
    run.save_checkpoint("coarse", 1, {"x": torch.arange(5000.0)})
    path = run.save_checkpoint("coarse", 2, {"x": torch.arange(5000.0)})
    content = path.read_bytes()
    if damage == "pickle":  # code in a checkpoint must not run
        import pickle

        path.write_bytes(pickle.dumps(pytest.raises))
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "noise": b"x" * 500}[damage])
    loaded = run.load_checkpoint()
    assert loaded["step"] == 1
    assert run.warnings == [f"checkpoint {path.name} is damaged; going back to the one before it"]
    run.save_checkpoint("coarse", 2, {})
    assert run.load_checkpoint()["step"] == 2


def test_a_checkpoint_from_the_future(tmp_path, config):
    run = RunFolder.create(tmp_path, config)
    path = run.save_checkpoint("coarse", 1, {})
    content = torch.load(path, weights_only=True)
    torch.save({**content, "format": 99}, path)
    with pytest.raises(ValueError, match="format 99; this headsculpt reads up to 1: update headsculpt"):
        run.load_checkpoint()


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("headsculpt.run_folder.os.fsync", full)
    with pytest.raises(OSError, match="the disk is full: free some space; 'headsculpt resume' then goes on"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_progress_and_previews(tmp_path, config):
    run = RunFolder.create(tmp_path, config)
    run.log({"stage": "coarse", "step": 1})
    run.log({"stage": "coarse", "step": 2})
    assert [json.loads(line)["step"] for line in run.progress_path.read_text().splitlines()] == [1, 2]
    assert run.save_preview("coarse", np.zeros((4, 4, 3), np.uint8)).is_file()


def test_one_process_at_a_time_is_at_work_on_a_run(tmp_path):
    run = RunFolder.create(tmp_path / "run", load_config("draft", prompt="an egg"))
    assert not run.busy
    with run.at_work():
        again = RunFolder.open(run.path)
        assert again.busy
        with pytest.raises(BusyError, match="run is at work already, in another process"):
            with again.at_work():
                pass
        program = "import sys; from headsculpt.run_folder import RunFolder; sys.exit(RunFolder(sys.argv[1]).busy)"
        assert subprocess.run([sys.executable, "-c", program, run.path]).returncode == 1
        assert run.config().prompt == "an egg"  # it can still be read
    assert not again.busy
    assert not RunFolder(tmp_path / "nothing").busy


def test_a_file_system_without_locks_has_none(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", load_config("draft", prompt="an egg"))

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", refuse)
    with run.at_work():
        assert not run.busy
