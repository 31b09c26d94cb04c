from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tiny_models import SIZES
from transformers import LlamaConfig
from warm_python import WARM_PYTHON

from shardnet.described.clusters import DeviceEntry
from shardnet.described.schema import Place, read_record

pytestmark = pytest.mark.usefixtures("warm_python")
SECONDS = ("--max-seconds", "2", "--dtype", "float32")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model of which only the configuration is there."""
    folder = tmp_path / "tiny"
    LlamaConfig(**SIZES).save_pretrained(folder)
    return str(folder)


def shardnet(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*WARM_PYTHON, "-m", "shardnet.launch.cli", "profile", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )


def test_a_profile_is_made_kept_and_written(tmp_path: Path, model: str) -> None:
    out = tmp_path / "device.json"
    first = shardnet(tmp_path, "--model", model, *SECONDS, "--json", "--out", str(out))
    assert first.returncode == 0, first.stderr
    made = json.loads(first.stdout)
    assert made == json.loads(out.read_text())
    assert (made["model"], made["is_estimated"], made["is_reused"]) == ("tiny", False, False)
    assert len(made["profile"]["decode_unit_s"]) == 5
    assert made["left_to_torch"] is None
    entry = read_record(DeviceEntry, made["cluster_entry"], Place("out"))
    assert entry.measured is not None and len(entry.measured[0].unit_ms) == 5

    again = shardnet(tmp_path, "--model", model, *SECONDS)
    assert again.returncode == 0, again.stderr
    assert "--refresh measures again" in again.stdout
    assert "block x 3" in again.stdout and "decode 8 sessions at 64 tokens" in again.stdout


def test_a_checkpoint_of_4_bits_is_measured_in_these(tmp_path: Path, model: str) -> None:
    """Once, as if its weights had 16 bits: what `shardnet quantise` has made is an own folder, and no .gguf file."""
    config = Path(model) / "config.json"
    said = {"quant_method": "shardnet", "weights": "int4-g64"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": said}))
    asked = ("--model", model, "--max-seconds", "2", "--kv-dtype", "int8")
    done = shardnet(tmp_path, *asked, "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["weights"], made["kv_dtype"]) == ("int4-g64", "int8")
    assert made["cluster_entry"]["measured"][0]["bits"] == 4
    assert sum(made["left_to_torch"].values()) == 3  # rows of 48 are no whole groups
    shown = " ".join(shardnet(tmp_path, *asked).stdout.split())
    assert "(weights int4-g64, bfloat16, keys and values int8, " in shown
    assert "Not run in C as a whole: 3 blocks, as " in shown


def test_a_model_of_numbers_alone_is_estimated(tmp_path: Path) -> None:
    done = shardnet(tmp_path, "--model", "llama-2-70b", *SECONDS, "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["is_estimated"] and made["profile"]["is_estimated"]
    assert len(made["profile"]["decode_unit_s"]) == 82
    assert "measured" not in made["cluster_entry"]
    assert made["measurement"]["model"] == "reference-1b"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--dtype", "int3"), "--dtype must be one of float32, bfloat16, float16, but is 'int3'."),
        (("--threads", "0"), "--threads must be between 1 and"),
        (("--compute", "gpu"), "--compute must be cpu, cuda:0 (or another number) or mps, but is 'gpu'."),
        (("--compute", "cuda:99"), "--compute cuda:99: "),
        (("--max-seconds", "0"), "--max-seconds must be above 0"),
        (
            ("--out", "/nowhere/x.json"),
            "Cannot write /nowhere/x.json: No such file or directory. Name another file with --out.",
        ),
        (("--out", "."), "Cannot write .: Is a directory."),
        (("--model", "./nothing.gguf"), "nothing.gguf"),
        (("--model", "no-such-owner/no-such-model"), "no-such-owner/no-such-model"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    done = shardnet(tmp_path, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
