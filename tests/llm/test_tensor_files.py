from pathlib import Path
from typing import Any

import pytest
import torch

from llmhd_pl.llm import tensor_files
from llmhd_pl.llm.tensor_files import read_tensors, write_tensors


def test_interrupted_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(tensors: object, path: str, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(tensor_files, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []
    assert read_tensors(tmp_path / "a.safetensors") is None


def test_two_that_write_the_same_file_at_once_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tensors, save_file = tmp_path / "a.safetensors", {"x": torch.arange(1000.0)}, tensor_files.save_file

    def slowly(content: Any, temporary: Any, metadata: Any) -> None:
        """Write half of the file, let another process write the whole one, and then write the rest."""
        save_file(content, temporary, metadata)
        whole = Path(temporary).read_bytes()
        with Path(temporary).open("wb") as file:
            file.write(whole[:1000])
            file.flush()
            monkeypatch.setattr(tensor_files, "save_file", save_file)
            write_tensors(path, tensors)
            first = read_tensors(path)
            assert first is not None and torch.equal(first["x"], tensors["x"])
            file.write(whole[1000:])

    monkeypatch.setattr(tensor_files, "save_file", slowly)
    write_tensors(path, tensors)
    second = read_tensors(path)
    assert second is not None and torch.equal(second["x"], tensors["x"])
    assert list(tmp_path.iterdir()) == [path]
