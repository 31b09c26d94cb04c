from __future__ import annotations

from pathlib import Path

import pytest

from shardnet.errors import BadConfiguration, ModelNotFound
from shardnet.launch.config_files import load_cluster, load_data_file, load_model_config

GOOD = """name: mine
source: a
devices:
  - {name: a, class: laptop}
  - name: b
    class: phone_old
links:
  - {from: a, to: b, mbit_per_s: 10, latency_ms: 1}
"""


def cluster_file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_reads_a_file_with_shipped_classes(tmp_path: Path) -> None:
    assert [device.name for device in load_cluster(cluster_file(tmp_path, GOOD)).devices] == ["a", "b"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("class: phone_old", "clas: phone_old", r"mine\.yaml, line 6, devices\[1\]\.clas: .*did you mean 'class'"),
        ("latency_ms", "latency_s", r"line 8, links\[0\]\.latency_s: .*did you mean 'latency_ms'"),
        ("source: a", "source: a\nsource: b", "line 3: the key 'source' is there twice"),
        ("devices:", "devices: [", "not YAML"),
        ("name: mine", "3: mine", "must be text"),
        (GOOD, "- 1", "must be a mapping"),
        (GOOD, "!!python/object/apply:os.getcwd []", "not YAML"),
        (GOOD, "", "must be a mapping"),
    ],
)
def test_names_the_file_and_the_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(BadConfiguration, match=said):
        load_cluster(cluster_file(tmp_path, GOOD.replace(old, new, 1)))


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(BadConfiguration, match="did you mean 'home'"):
        load_cluster("hone")
    with pytest.raises(BadConfiguration, match="there is no file"):
        load_cluster("nowhere/home.yaml")
    with pytest.raises(ModelNotFound, match="did you mean 'llama_2_7b'"):
        load_model_config("llama-2-7")


def test_folders_without_a_configuration_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"without config\.json"):
        load_model_config(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadConfiguration, match="not JSON"):
        load_model_config(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadConfiguration, match="must be a mapping"):
        load_model_config(str(tmp_path))
    binary = tmp_path / "x.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadConfiguration, match="not a text file"):
        load_data_file(binary)
