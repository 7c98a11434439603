import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def test_the_wheel_holds_the_three_packages_and_no_other_top_level_name(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: building in place leaves a build folder behind
    shutil.copytree(REPOSITORY, source, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info"))
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"llmhd_pl"}
    for package in ("", "backbones/", "callbacks/", "datamodules/", "llm/"):
        assert f"llmhd_pl/{package}__init__.py" in names
    assert {"llmhd_pl/py.typed", "llmhd_pl/llm/templates/books.toml"} <= set(names)
    modules = {path.name for folder in ("callbacks", "datamodules") for path in (REPOSITORY / folder).glob("*.py")}
    assert modules <= {name.rpartition("/")[2] for name in names}
