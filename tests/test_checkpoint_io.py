"""Checkpoints run no code, come from local files, and are whole or as they were."""

import argparse
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringModel

from llmhd_pl.backbones import MF
from llmhd_pl.checkpoint_io import SafeCheckpointIO, read_checkpoint
from llmhd_pl.datamodules import SyntheticCatalog
from train import main


class Touch:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def zipped(value: Any, path: Path) -> None:
    torch.save(value, path)


def legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def plain(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("write", [zipped, legacy, plain])
def test_a_checkpoint_that_holds_code_is_refused(tmp_path: Path, write: Callable[[Any, Path], None]) -> None:
    write({"state_dict": {}, "more": Touch(tmp_path / "touched")}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt holds (posix\.system|objects).*Only tensors and plain Python"):
        read_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "touched").exists()


def test_a_checkpoint_that_needs_more_than_tensors_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": argparse.Namespace(a=1)}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt holds argparse\.Namespace.*state_dict\(\) alone") as error:
        read_checkpoint(tmp_path / "a.ckpt")
    assert "weights_only" not in str(error.value)  # torch advises to switch the protection off
    assert error.value.__cause__ is None


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "a list", "a folder", "nothing"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, path)
    whole = path.read_bytes()
    if damage == "a list":
        torch.save([1], path)
    elif damage in ("a folder", "nothing"):
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"state_dict"}[damage])
    with pytest.raises((ValueError, FileNotFoundError), match=r"last\.ckpt.*(Use another one|Check the path)"):
        read_checkpoint(path)


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.arange(3)}, "epoch": 4}, tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt")["state_dict"]["a"].tolist() == [0, 1, 2]


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """Serves a checkpoint that touches a file when it is loaded without protection."""
    torch.save({"state_dict": {}, "more": Touch(tmp_path / "touched")}, tmp_path / "evil.ckpt")
    content = (tmp_path / "evil.ckpt").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/evil.ckpt"
    server.shutdown()
    assert not (tmp_path / "touched").exists()


QUIET: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def small() -> tuple[MF, SyntheticCatalog]:
    return MF(40, 50, 4), SyntheticCatalog(40, 50, num_topics=5, books_per_reader=12)


def test_a_url_runs_no_code(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """With Lightning alone, each of the first three touches the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    trainer, (model, data) = Trainer(accelerator="cpu", **QUIET), small()
    for use in (trainer.test, trainer.fit, trainer.predict):
        with pytest.raises(ValueError, match=r"evil\.ckpt is a web address.*Download"):
            use(model, datamodule=data, ckpt_path=server)
    with pytest.raises(ValueError, match=r"is a web address.*Download"):
        MF.load_from_checkpoint(server)
    with pytest.raises(ValueError, match=r"is a web address.*Download"):
        Trainer(accelerator="cpu", plugins=[SafeCheckpointIO()], **QUIET).test(BoringModel(), ckpt_path=server)
    with pytest.raises(ValueError, match=r"is a web address.*Download"):
        SafeCheckpointIO().load_checkpoint(server)
    with pytest.raises(SystemExit):
        main(["test", "--config", "quickstart", "--ckpt_path", server])
    assert "is a web address" in capsys.readouterr().err
    assert not list(tmp_path.glob("hub/**/*.ckpt"))  # where torch keeps what it has fetched, by file name


SAVE = """
import sys, torch
from pathlib import Path
from llmhd_pl.checkpoint_io import SafeCheckpointIO
from pytorch_lightning.plugins.io import TorchCheckpointIO
io = TorchCheckpointIO() if sys.argv[2] == "lightning" else SafeCheckpointIO()
tensor = torch.zeros(20_000_000)
for number in range(1000):
    io.save_checkpoint({"state_dict": {"a": tensor}, "number": number}, sys.argv[1])
    print(number, flush=True)
"""


def killed_while_it_saves(folder: Path, plugin: str, seconds: float) -> Path:
    environment = os.environ | {"TMPDIR": "/dev/shm"}
    path = folder / "last.ckpt"
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE, str(path), plugin], stdout=subprocess.PIPE, env=environment, cwd=folder
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return path


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system, /dev/shm")
def test_kill_9_while_a_checkpoint_is_written_with_the_temporary_folder_on_another_file_system(tmp_path: Path) -> None:
    for seconds in (0.05, 0.14):
        path = killed_while_it_saves(tmp_path, "ours", seconds)
        assert len(read_checkpoint(path)["state_dict"]["a"]) == 20_000_000
    SafeCheckpointIO().save_checkpoint({"state_dict": {}}, path)
    assert list(tmp_path.iterdir()) == [path]  # what the killed processes have left is gone
