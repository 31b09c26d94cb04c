"""What names mean on the hub, and which files of a repository are meant."""

from __future__ import annotations

import pytest

from shardnet.errors import ModelNotFound, UnsupportedModel, UsageError
from shardnet.loader.hub.choosing import beside_weights, gguf_of, weights_of
from shardnet.loader.hub.names import HubName, hub_name

GGUFS = ["config.json", "tiny-Q4_K_M.gguf", "tiny-Q4_K_S.gguf", "UD/tiny.IQ4_XS.gguf", "mmproj-tiny-Q4_K_M.gguf"]


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("org/tiny", HubName("org/tiny")),
        ("gpt2", HubName("gpt2")),
        ("org/tiny@v1.0", HubName("org/tiny", revision="v1.0")),
        ("org/tiny@refs/pr/3", HubName("org/tiny", revision="refs/pr/3")),
        ("org/tiny-GGUF:Q4_K_M", HubName("org/tiny-GGUF", kind="Q4_K_M")),
        ("org/tiny:q8_0@main", HubName("org/tiny", kind="q8_0", revision="main")),
        ("org/tiny/tiny-f16.gguf", HubName("org/tiny", file="tiny-f16.gguf")),
        ("org/tiny/deep/tiny.gguf@v2", HubName("org/tiny", file="deep/tiny.gguf", revision="v2")),
    ],
)
def test_a_name_says_repository_file_kind_and_revision(model: str, meant: HubName) -> None:
    assert hub_name(model) == meant and str(meant) == model


@pytest.mark.parametrize(
    "model",
    [
        *("", "a b", "./org/tiny", "/org/tiny", "~/tiny", "org/tiny/deep", "tiny.gguf", "models/tiny.gguf"),
        *("org/../tiny.gguf", "org/tiny/../x.gguf", "org/tiny/.x.gguf", "org/tiny@", "org/tiny:", "org/tiny@a..b"),
        *("org--x/tiny", "org/" + "x" * 100, "https://hub.example/org/tiny", "org/tiny:Q4@", "org/tiny\n", "örg/tiny"),
    ],
)
def test_what_can_be_nothing_on_the_hub(model: str) -> None:
    assert hub_name(model) is None


@pytest.mark.parametrize(
    ("model", "shown"),
    [("org/tiny@refs/pr/3", "tiny"), ("org/tiny:Q4_K_M@v1", "tiny:Q4_K_M"), ("org/tiny/d/x-Q8.gguf", "x-Q8")],
)
def test_what_a_model_is_called(model: str, shown: str) -> None:
    name = hub_name(model)
    assert name is not None and name.shown == shown


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("org/tiny:Q4_K_M", "tiny-Q4_K_M.gguf"),
        ("org/tiny:q4_k_s", "tiny-Q4_K_S.gguf"),
        ("org/tiny:IQ4_XS", "UD/tiny.IQ4_XS.gguf"),
        ("org/tiny/tiny-Q4_K_S.gguf", "tiny-Q4_K_S.gguf"),
    ],
)
def test_a_kind_is_found_as_llama_cpp_names_files(model: str, file: str) -> None:
    name = hub_name(model)
    assert name is not None and gguf_of(GGUFS, name) == file


@pytest.mark.parametrize(
    ("model", "files", "said"),
    [
        ("org/tiny", GGUFS, "has 3 .gguf files. Name one of these, as in org/tiny/UD/tiny.IQ4_XS.gguf: UD/tiny"),
        ("org/tiny:Q4", GGUFS, "has no .gguf file of the kind 'Q4'. Name one of these"),
        ("org/tiny:Q8_0", ["a-Q8_0.gguf", "b-Q8_0.gguf"], "has 2 .gguf files of the kind 'Q8_0'"),
        ("org/tiny:Q8_0", ["model.safetensors"], "It has no .gguf files at all"),
        ("org/tiny/no.gguf", GGUFS, "has no file 'no.gguf'. Name one of these"),
    ],
)
def test_what_is_not_there_or_ambiguous_lists_what_is(model: str, files: list[str], said: str) -> None:
    name = hub_name(model)
    assert name is not None
    with pytest.raises(ModelNotFound) as caught:
        gguf_of(files, name)
    assert said in str(caught.value)


@pytest.mark.parametrize("model", ["org/big:Q4_K_M", "org/big", "org/big/big-Q4_K_M-00001-of-00003.gguf"])
def test_a_model_in_several_gguf_files_is_refused_by_name(model: str) -> None:
    name = hub_name(model)
    assert name is not None
    with pytest.raises(UnsupportedModel, match=r"big-Q4_K_M-00001-of-00003.gguf of org/big is one of several files"):
        gguf_of([f"big-Q4_K_M-0000{nth}-of-00003.gguf" for nth in (1, 2, 3)], name)


def test_of_safetensors_only_what_is_read_is_wanted() -> None:
    name = HubName("org/tiny")
    wanted = ["config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    files = [
        *wanted,
        *shards,
        "additional_chat_templates/tool.jinja",
        "model.safetensors.index.json",
        *(
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "consolidated.safetensors",
            "tf_model.h5",
            "LICENSE.txt",
        ),
        *("onnx/model.onnx", "onnx/config.json", "original/params.json", "original/tokenizer.model", "README.md"),
        *("flax_model.msgpack", "tiny.Q4_0.gguf"),
    ]
    assert gguf_of(files, name) is None
    assert set(beside_weights(files)) == {
        *wanted,
        "additional_chat_templates/tool.jinja",
        "model.safetensors.index.json",
    }
    assert weights_of(files, set(shards), name) == shards


@pytest.mark.parametrize(
    ("files", "listed", "said"),
    [
        (["pytorch_model.bin", "config.json"], None, "has its weights as pytorch_model.bin"),
        (["model-a.safetensors"], None, "has its weights as model-a.safetensors"),
        (["config.json"], None, "has no weights"),
        (["model.safetensors.index.json"], {"../../x"}, "names ../../x, which is not there"),
    ],
)
def test_weights_that_cannot_be_read_are_refused(files: list[str], listed: set[str] | None, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        weights_of(files, listed, HubName("org/tiny"))
    assert said in str(caught.value)
