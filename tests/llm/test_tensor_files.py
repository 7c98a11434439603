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


SHAPES: dict[str, tuple[int | None, ...]] = {"x": (3, None)}


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ({"x": torch.ones(2, 4)}, "x is of shape 2 x 4, not 3 x any"),
        ({"x": torch.ones(3)}, "x is of shape 3, not 3 x any"),
        ({"x": torch.ones(3, 0)}, "x is of shape 3 x 0, not 3 x any"),
        ({"x": torch.ones(3, 4, 1)}, "x is of shape 3 x 4 x 1"),
        ({"x": torch.tensor(1.0)}, "x is of shape , not 3 x any"),
        ({"x": torch.full((3, 4), torch.nan)}, "x holds NaN or infinity"),
        ({"x": torch.full((3, 4), -torch.inf)}, "x holds NaN or infinity"),
        ({"x": torch.ones(3, 4, dtype=torch.float64)}, r"x is torch.float64, not torch.float32"),
        ({"x": torch.ones(3, 4, dtype=torch.bfloat16)}, r"x is torch.bfloat16"),
        ({"x": torch.ones(3, 4, dtype=torch.int64)}, r"x is torch.int64"),
        ({"y": torch.ones(3, 4)}, "it holds y, not x"),
        ({"x": torch.ones(3, 4), "y": torch.ones(1)}, "it holds x, y, not x"),
    ],
)
def test_tensors_that_are_not_what_they_must_be_are_not_trusted(
    tmp_path: Path, tensors: dict[str, torch.Tensor], error: str
) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors)
    with pytest.warns(UserWarning, match=rf"{path} is damaged .{error}.*renamed to {path}.damaged"):
        assert read_tensors(path, SHAPES) is None
    assert not path.exists() and path.with_name("a.safetensors.damaged").exists()


@pytest.mark.parametrize("content", ["cut", "flipped", "empty", "pickle", "text", "unreadable"])
def test_a_file_that_is_damaged_or_another_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.arange(12.0).reshape(3, 4)})
    whole = path.read_bytes()
    if content == "cut":
        path.write_bytes(whole[:-7])
    elif content == "flipped":
        path.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])
    elif content == "pickle":
        torch.save({"x": torch.ones(3, 4)}, path)  # it must not be unpickled
    elif content == "unreadable":

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tensor_files, "safe_open", refuse)
    else:
        path.write_text("" if content == "empty" else "user\titem\n")
    path.with_name("a.safetensors.damaged").mkdir()  # even if it cannot be set aside
    with pytest.warns(UserWarning, match=rf"{path} is damaged .*is made anew"):
        assert read_tensors(path, SHAPES) is None
    write_tensors(path, {"x": torch.ones(3, 4)})
    monkeypatch.undo()
    assert read_tensors(path, SHAPES) is not None


def test_tensors_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=rf"{tmp_path}/file/a.safetensors could not be written: .*choose another place"):
        write_tensors(tmp_path / "file" / "a.safetensors", {"x": torch.ones(2)})
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "file")
    write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)})
    assert (tmp_path / "file").read_text() == "" and not (tmp_path / "a.safetensors").is_symlink()
