from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from shardnet.described.model_sizes import model_config_from_hf
from shardnet.errors import BadConfiguration, ModelNotFound
from shardnet.launch.files.config_files import load_cluster, load_data_file, load_model_config

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
    with pytest.raises(BadConfiguration, match="not UTF-8 text"):
        load_data_file(binary)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!int x", "a number, a date or another value that is none"),
        ("a: !!bool x", "that is none"),
        ("a: !!timestamp x", "that is none"),
        ("a: 2024-13-45", "that is none"),
        ("a: " + "9" * 5000, "that is none"),
        ("? [1, 2]\n: x", "the key .1, 2. must be text"),
        ("a: &a [*a, *a]", "unconstructable recursive node|too often"),
        ("a: &a [x, x]\n" + "".join(f"{c}: &{c} [{f'*{b}, ' * 9}]\n" for b, c in pairwise("abcdefghij")), "too often"),
        ("[" * 50_000, "nested too deeply|not YAML"),
        ("a: \x00", "not YAML"),
        ("x" * 9_000_000, "has 9000000 bytes, more than the"),
    ],
)
def test_yaml_that_is_no_configuration(tmp_path: Path, text: str, said: str) -> None:
    """Scalars that their tags do not allow ended in a KeyError or a ValueError; nine lines grew to 10^9 values."""
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(BadConfiguration, match=said) as caught:
        load_data_file(path)
    assert "\n" not in str(caught.value)


def test_names_that_the_system_does_not_take(tmp_path: Path) -> None:
    """`~nobody` raised a RuntimeError, a name of 5,000 characters an OSError, a pipe was called a missing file."""
    for name in ("~nobody/x", "x" * 5000, "x" * 5000 + "/y.yaml", "a\0b"):
        for load in (load_cluster, load_model_config):
            with pytest.raises((BadConfiguration, ModelNotFound)) as caught:
                load(name)
            assert len(str(caught.value)) < 900
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(BadConfiguration, match="it is a pipe, not a file"):
        load_cluster(str(tmp_path / "x.yaml"))
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(BadConfiguration, match="it is a pipe, not a file"):
        load_model_config(str(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mbit_per_s: 10", "mbit_per_s: 1.0e+308", r"links\[0\]\.mbit_per_s: must be a number, at most 1e\+09"),
        ("latency_ms: 1", "latency_ms: 1.0e-320", "0 or at least 1e-18, but is 1e-320"),
        ("latency_ms: 1", "latency_ms: 1" + "0" * 400, "must be a finite number|at most"),
        ("name: b", "name: " + "b" * 1000, r"devices\[1\]\.name: must have a name of at most 200 characters"),
        ("name: b", 'name: "b\\e[2J"', "without control characters"),
        ("name: b", "name: b\n    count: 4000", "links are more than the 1100000"),
        ("name: b", "name: b\n    count: 5000", "at most 4096"),
        ("from: a", "from: [all, all, source, " + "a, " * 1000 + "a]", None),
    ],
)
def test_magnitudes_and_names_of_clusters(tmp_path: Path, old: str, new: str, said: str | None) -> None:
    path = cluster_file(tmp_path, GOOD.replace("from: a, to: b", "from: a, to: all").replace(old, new, 1))
    if said is None:
        assert len(load_cluster(path).links) == 2
        return
    if "count: 4000" in new:
        path = cluster_file(tmp_path, GOOD.replace("from: a, to: b", "from: all, to: all").replace(old, new, 1))
    with pytest.raises(BadConfiguration, match=said):
        load_cluster(path)


@pytest.mark.parametrize("value", [{}, [], "x", -1, 0, 10**400, 1.5, True, "x" * 200_000])
@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "sliding_window_pattern", "max_position_embeddings"]
)
def test_numbers_of_a_config_json(tmp_path: Path, key: str, value: object) -> None:
    """A list times four, a text plus two, int("x"): each was a TypeError or a ValueError."""
    numbers = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    for family in ("gemma3_text", "opt"):
        config = {"model_type": family, **numbers, "sliding_window": 8, key: value}
        if key == "sliding_window_pattern" and family == "opt":
            continue
        with pytest.raises(BadConfiguration, match=rf"^m: config\.json: {key} must be a whole number") as caught:
            model_config_from_hf(config, "m")
        assert len(str(caught.value)) < 200
