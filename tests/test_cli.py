"""The command line: ``llmhd``, ``python -m llmhd_pl`` and ``train.py``."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import llmhd_pl
from llmhd_pl import __main__ as command
from llmhd_pl import bundled
from llmhd_pl.callbacks import CostEstimate, LLMSampleScorer, SampleRecorder, TruncatedLoss, VariancePruning
from llmhd_pl.cli import main, with_bundled_configs
from llmhd_pl.llm.encoder import EncoderScorer
from llmhd_pl.llm.lexical import LexicalScorer

REPOSITORY = Path(__file__).parent.parent
SMALL = [
    *("--model", "MF", "--data", "SyntheticCatalog", "--data.num_readers", "60", "--data.num_books", "50"),
    *("--data.num_topics", "5", "--data.books_per_reader", "12", "--data.batch_size", "128"),
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false"),
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["llmhd"])


def kinds(cli: Any) -> list[type]:
    return [type(callback) for callback in cli.trainer.callbacks]


def test_a_method_is_chosen_by_its_name() -> None:
    judge = ["--denoising.scorer", "LexicalScorer", "--denoising.scorer.max_features", "500"]
    cli = main(["fit", *SMALL, "--denoising", "LLMHD", "--denoising.rule", "paper", *judge])
    assert kinds(cli)[:3] == [SampleRecorder, VariancePruning, LLMSampleScorer]
    scorer = cli.trainer.callbacks[2]
    assert scorer.rule == "paper" and isinstance(scorer.scorer, LexicalScorer) and scorer.scorer.max_features == 500
    saved = yaml.safe_load(Path("runs/version_0/config.yaml").read_text())["denoising"]
    assert saved["class_path"] == "llmhd_pl.LLMHD" and saved["init_args"]["rule"] == "paper"
    again = main(["fit", "--config", "runs/version_0/config.yaml"])
    assert {name: float(value) for name, value in again.trainer.callback_metrics.items()} == {
        name: float(value) for name, value in cli.trainer.callback_metrics.items()
    }


def test_a_method_in_yaml_and_none(tmp_path: Path) -> None:
    Path("method.yaml").write_text(
        yaml.safe_dump({"denoising": {"class_path": "TCE", "init_args": {"drop_rate": 0.3}}})
    )
    cli = main(["fit", "--config", "method.yaml", *SMALL])
    assert kinds(cli)[0] is TruncatedLoss and cli.trainer.callbacks[0].max_drop_rate == 0.3
    without = main(["fit", "--config", "method.yaml", *SMALL, "--denoising", "null"])
    assert TruncatedLoss not in kinds(without) and TruncatedLoss not in kinds(main(["fit", *SMALL]))


def test_the_trainers_own_callbacks_come_after_the_methods(tmp_path: Path) -> None:
    """CostEstimate must: it asks what stands before it."""
    judge = ["--denoising", "LLMHD", "--denoising.scorer", "EmbeddedJudge"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *SMALL, *judge, "--trainer.callbacks+=llmhd_pl.CostEstimate"])
    assert ended.value.code == 0
    two = ["--trainer.callbacks+=llmhd_pl.NoiseAudit", "--trainer.callbacks+=llmhd_pl.callbacks.EveryEpochTest"]
    cli = main(["fit", *SMALL, "--denoising", "LossDropping", *two])
    names = [kind.__name__ for kind in kinds(cli)]
    assert names[:4] == ["SampleRecorder", "VariancePruning", "NoiseAudit", "EveryEpochTest"]
    header = Path("runs/version_1/metrics.csv").read_text().splitlines()[0]
    assert "every_epoch/ndcg@10" in header and CostEstimate not in kinds(cli)


def test_every_scorer_is_known_by_its_name(capsys: Any) -> None:
    """EncoderScorer too, which is parsed without loading a model."""
    arguments = ["fit", *SMALL, "--denoising", "LLMHD", "--denoising.scorer", "EncoderScorer"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--denoising.scorer.align", "false", "--print_config"])
    assert ended.value.code == 0
    scorer = yaml.safe_load(capsys.readouterr().out)["denoising"]["init_args"]["scorer"]
    assert scorer["class_path"] == "llmhd_pl.EncoderScorer" and scorer["init_args"]["align"] is False
    assert EncoderScorer is llmhd_pl.EncoderScorer
    for wrong in (["--denoising", "LLMDH"], ["--denoising", "LLMHD", "--denoising.scorer", "MF"]):
        with pytest.raises(SystemExit) as ended:
            main(["fit", *SMALL, *wrong])
        assert ended.value.code == 2 and wrong[-1] in capsys.readouterr().err


def test_a_run_takes_one_device_unless_it_is_given_several() -> None:
    """Lightning would start DDP on every GPU of the machine."""
    parse = main(["fit", *SMALL]).parser.parse_args
    assert parse(["fit", *SMALL]).fit.trainer.devices == 1
    assert int(parse(["fit", *SMALL, "--trainer.devices", "2"]).fit.trainer.devices) == 2


def test_a_bundled_configuration_is_found_by_its_name() -> None:
    quickstart = bundled.CONFIGS / "quickstart.yaml"
    assert bundled.find("quickstart") == quickstart and "quickstart" in bundled.names()
    assert with_bundled_configs(["fit", "--config=quickstart", "-c", "quickstart", "--config", "quickstart"]) == [
        *("fit", f"--config={quickstart}", "-c", str(quickstart), "--config", str(quickstart))
    ]
    Path("quickstart").write_text("model: MF")  # a file of one's own comes first
    assert with_bundled_configs(["--config", "quickstart"]) == ["--config", "quickstart"]
    with pytest.raises(FileNotFoundError, match=r"no file quikstart in .* no bundled .* Bundled are .*quickstart"):
        main(["fit", "--config", "quikstart"])


def test_the_version(capsys: Any) -> None:
    command.main(["--version"])
    assert capsys.readouterr().out == f"llmhd-pl {llmhd_pl.__version__}\n"


@pytest.mark.parametrize(
    "door", [["-m", "llmhd_pl"], [str(REPOSITORY / "train.py")]], ids=["python -m llmhd_pl", "train.py"]
)
def test_all_doors_lead_to_the_same(door: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, *door, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    assert run("--version").stdout == f"llmhd-pl {llmhd_pl.__version__}\n"
    done = run("fit", *SMALL, "--denoising", "RCE", "--denoising.beta", "0.5")
    assert done.returncode == 0 and "test/ndcg@10" in done.stdout, done.stdout + done.stderr
    assert "LeafSpec" not in done.stderr
    assert {"metrics.csv", "config.yaml", "checkpoints"} <= {path.name for path in Path("runs/version_0").iterdir()}
    helped = run("--help")
    assert helped.returncode == 0 and all(name in helped.stdout for name in ("llmhd", *command.COMMANDS, "predict"))
    assert run("compare", "--help").returncode == 0
