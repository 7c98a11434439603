from pathlib import Path

import pytest

from llmhd_pl.files import whole_file


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with whole_file(path) as part:
        part.write_text("one")
        assert not path.exists() and part.parent == path.parent
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError, match="fire"), whole_file(path) as part:
        part.write_text("half")
        raise RuntimeError("fire")
    assert path.read_text() == "one" and [file.name for file in path.parent.iterdir()] == ["file.txt"]
