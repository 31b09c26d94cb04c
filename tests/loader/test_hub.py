"""Models from a hub: real HTTP to one in this process, whose answers break off, are refused, or are another's."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import LARGE, TOKEN, FakeHub, fake_hub, use
from tiny_gguf import write_gguf
from tiny_text_model import save_text_model

from shardnet.errors import DamagedCheckpoint, ModelNotFetched, ModelNotFound, UnsupportedModel
from shardnet.loader import open_model
from shardnet.loader.gguf.config import open_header
from shardnet.loader.hub import fetching, heads, trying
from shardnet.loader.hub.models import described, fetched, in_cache

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The same in several files."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("shards")
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(folder, max_shard_size="200KB")
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


@pytest.fixture
def sign_in(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets this process ask that hub, with nothing cached; it sets a token."""
    for module, name in ((fetching, "PAUSE_S"), (trying, "FIRST_WAIT_S")):
        monkeypatch.setattr(module, name, 0.0)
    return use(hub, tmp_path, monkeypatch)


@pytest.fixture
def cache(sign_in: Callable[[str], None], tmp_path: Path) -> Path:
    return tmp_path / "shardnet"


def same_files(folder: Path, original: Path) -> bool:
    return all((folder / path.name).read_bytes() == path.read_bytes() for path in original.iterdir())


def go_offline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_model_is_fetched_once_and_shared_with_other_programs(
    hub: FakeHub, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig, AutoTokenizer

    hub.add_folder("org/tiny", model)
    told: list[tuple[str, float, float]] = []
    folder = fetched("org/tiny", cache, lambda *each: told.append(each))
    assert same_files(folder, model) and hub.sent == {path.name: path.stat().st_size for path in model.iterdir()}
    assert told[-1][1] == told[-1][2] == sum(hub.sent.values()) and told[-1][0].startswith("fetching org/tiny: ")
    hub.forget()
    assert fetched("org/tiny", cache, None) == folder and in_cache("org/tiny", cache) == folder
    assert not hub.asked
    assert not list(folder.parent.parent.rglob("*.incomplete"))
    go_offline(monkeypatch)
    assert AutoConfig.from_pretrained("org/tiny").vocab_size and AutoTokenizer.from_pretrained("org/tiny")
    assert open_model("org/tiny", "float32", cache_dir=cache).name == "tiny"


def test_what_another_program_has_fetched_is_not_fetched_again(
    hub: FakeHub, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import snapshot_download

    hub.add_folder("org/tiny", model)
    folder = Path(snapshot_download("org/tiny"))
    hub.add_folder("org/tiny", model, **{"README.md": b"newer"})
    hub.forget()
    assert fetched("org/tiny", cache, None) == folder and not hub.sent
    hub.forget()
    assert fetched("org/tiny", cache, None) == folder and not hub.asked
    go_offline(monkeypatch)
    assert fetched("org/tiny", cache / "other", None) == folder


def test_only_one_format_is_fetched_and_of_that_what_is_read(hub: FakeHub, shards: Path, cache: Path) -> None:
    more = {"pytorch_model.bin": b"x", "onnx/model.onnx": b"x", "original/consolidated.00.pth": b"x", "README.md": b"#"}
    hub.add_folder("org/tiny", shards, **more, **{"consolidated.safetensors": b"x", "tiny-Q4_0.gguf": b"x"})
    folder = fetched("org/tiny", cache, None)
    assert hub.fetched() == {path.name for path in shards.iterdir()} and same_files(folder, shards)


@pytest.mark.parametrize("lost", ["model-00002", "tokenizer_config", "chat_template", "index"])
def test_a_cut_download_is_no_whole_one(
    hub: FakeHub, shards: Path, cache: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a shard missing, the others were taken for the model; without a chat template, it chatted otherwise."""
    hub.add_folder("org/tiny", shards)
    folder = fetched("org/tiny", cache, None)
    [path] = [path for path in folder.iterdir() if lost in path.name]
    path.resolve().unlink()
    assert in_cache("org/tiny", cache) is None
    hub.forget()
    assert fetched("org/tiny", cache, None) == folder and hub.fetched() == {path.name}
    path.resolve().write_bytes(path.read_bytes()[:-1])
    hub.forget()
    assert fetched("org/tiny", cache, None) == folder and same_files(folder, shards) and hub.fetched() == {path.name}
    path.unlink()
    go_offline(monkeypatch)
    with pytest.raises(ModelNotFound, match=r"org/tiny is not whole in the hub's cache .*HF_HUB_OFFLINE is set"):
        fetched("org/tiny", cache, None)


def test_what_another_program_has_fetched_in_part_is_completed(hub: FakeHub, shards: Path, cache: Path) -> None:
    from huggingface_hub import snapshot_download

    hub.add_folder("org/tiny", shards)
    snapshot_download("org/tiny", allow_patterns=["*.json", "model-00001*"])
    assert in_cache("org/tiny", cache) is None
    assert same_files(fetched("org/tiny", cache, None), shards)
    assert hub.sent["model-00001-of-00004.safetensors"] <= (shards / "model-00001-of-00004.safetensors").stat().st_size


def test_connections_that_break_are_taken_up_where_they_broke(hub: FakeHub, model: Path, cache: Path) -> None:
    hub.add_folder("org/tiny", model)
    hub.will("GET", WEIGHTS, times=3, cut_after=100_000)
    assert same_files(fetched("org/tiny", cache, None), model)
    assert hub.sent[WEIGHTS] == (model / WEIGHTS).stat().st_size
    asked = [span for _, path, span in hub.asked if path.startswith("/network/")]
    assert asked == ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"]


def test_a_download_that_ended_goes_on_in_the_next_process(
    hub: FakeHub, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_folder("org/tiny", model)
    hub.will("GET", WEIGHTS, cut_after=300_000)
    with monkeypatch.context() as patch:
        patch.setattr("shardnet.loader.hub.fetching.time", type("Time", (), {"sleep": _ended_by_the_user}))
        with pytest.raises(KeyboardInterrupt):
            fetched("org/tiny", cache, None)
    assert in_cache("org/tiny", cache) is None and hub.sent[WEIGHTS] == 300_000
    assert same_files(fetched("org/tiny", cache, None), model)
    assert hub.sent[WEIGHTS] == (model / WEIGHTS).stat().st_size


@pytest.mark.parametrize("file", [WEIGHTS, "tokenizer.json"])
def test_bytes_that_are_others_than_the_hub_says_are_not_taken(
    hub: FakeHub, model: Path, cache: Path, file: str
) -> None:
    hub.add_folder("org/tiny", model)
    hub.will("GET", file, flip=True)
    with pytest.raises(ModelNotFetched, match=rf"{file} of org/tiny did not come .*its hash differs.*thrown away"):
        fetched("org/tiny", cache, None)
    assert in_cache("org/tiny", cache) is None
    assert same_files(fetched("org/tiny", cache, None), model)


def test_an_answer_that_is_shorter_than_it_should_be_is_taken_up(hub: FakeHub, model: Path, cache: Path) -> None:
    hub.add_folder("org/tiny", model)
    hub.will("GET", WEIGHTS, clean=True, cut_after=1000)
    assert same_files(fetched("org/tiny", cache, None), model)


@pytest.mark.parametrize(
    ("repo", "token", "said"),
    [
        ("org/gated", "", r"org/gated is gated: .*Accept them at http.*/org/gated, and set HF_TOKEN"),
        ("org/gated", "hf_of_another", r"org/gated is gated, and the account of your token has not been let in"),
        ("org/none", "", r"no model org/none that everybody may read. .*if it is private, set HF_TOKEN"),
        ("org/none", TOKEN, r"no model org/none that your token may read"),
        ("org/private", "hf_of_another", r"no model org/private that your token may read"),
        ("org/tiny", "hf_mistyped", r"The hub refuses the token that was shown for org/tiny"),
        ("org/tiny@v9", "", r"org/tiny on the hub has no revision 'v9'"),
    ],
)
def test_who_may_not_is_told_what_to_do(
    hub: FakeHub, model: Path, cache: Path, sign_in: Callable[[str], None], repo: str, token: str, said: str
) -> None:
    sign_in(token)
    hub.add_folder("org/tiny", model)
    hub.add("org/gated", hub.repos["org/tiny"].commits[hub.repos["org/tiny"].refs["main"]], gated=True)
    hub.add("org/private", {}, private=True)
    with pytest.raises(ModelNotFound, match=said) as caught:
        fetched(repo, cache, None)
    assert "\n" not in str(caught.value) and not isinstance(caught.value, ModelNotFetched)


@pytest.mark.parametrize("place", ["HF_TOKEN", "the token file"])
def test_a_token_opens_what_is_gated_and_is_shown_to_the_hub_alone(
    hub: FakeHub, model: Path, cache: Path, sign_in: Callable[[str], None], place: str
) -> None:
    hub.add_folder("org/gated", model)
    hub.repos["org/gated"].gated = hub.repos["org/gated"].private = True
    if place == "HF_TOKEN":
        sign_in(TOKEN)
    else:
        (cache.parent / "hf").mkdir()
        (cache.parent / "hf" / "token").write_text(TOKEN)
    assert same_files(fetched("org/gated", cache, None), model)
    assert not hub.tokens_at_network


def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub: FakeHub, model: Path, cache: Path) -> None:
    hub.add_folder("org/tiny", model)
    hub.will("GET", "/api/models/org/tiny", status=429, headers={"Retry-After": "0"})
    hub.will("GET", "/api/models/org/tiny", status=503)
    hub.will("GET", f"/{WEIGHTS}", status=500)
    assert same_files(fetched("org/tiny", cache, None), model)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 429, "headers": {"Retry-After": "300"}}, r"asked too often .*Try again in 300 s\. With a token"),
        ({"status": 429, "headers": {"RateLimit": '"api";r=0;t=120'}}, r"Try again in 120 s"),
        ({"status": 429}, r"Try again in some minutes"),
        ({"status": 503}, r"a fault of its own \(status 503\)"),
        ({"status": 418}, r"The hub refuses org/tiny \(status 418\)"),
    ],
)
def test_a_hub_that_cannot_now_says_so(
    hub: FakeHub, model: Path, cache: Path, answer: dict[str, Any], said: str
) -> None:
    hub.add_folder("org/tiny", model)
    hub.will("GET", "/api/models/org/tiny", times=trying.NUM_TRIES, **answer)
    with pytest.raises(ModelNotFetched, match=said) as caught:
        fetched("org/tiny", cache, None)
    assert "\n" not in str(caught.value)


def test_without_a_network_what_is_here_is_used_and_else_a_sentence_says_so(
    hub: FakeHub, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import snapshot_download

    hub.add_folder("org/tiny", model)
    folder = Path(snapshot_download("org/tiny"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert fetched("org/tiny", cache, None) == folder  # of which nobody can say whether it is all
    with pytest.raises(ModelNotFetched, match=r"the hub at http://127.0.0.1:9 cannot be reached \(.*refused.*\)"):
        fetched("org/other", cache, None)


def test_a_disk_without_room_is_found_before_and_while_it_is_filled(
    hub: FakeHub, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_folder("org/tiny", model)
    free = type("Usage", (), {"free": 1000})
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: free)
        with pytest.raises(ModelNotFetched, match=r"needs 0.00 GiB more in .*Make room, or set HF_HOME"):
            fetched("org/tiny", cache, None)
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_fetch_bytes", _full)
        with pytest.raises(ModelNotFetched, match=r"The disk is full: org/tiny does not fit .*What has come is kept"):
            fetched("org/tiny", cache, None)


def test_a_revision_is_another_model(hub: FakeHub, model: Path, cache: Path, tmp_path: Path) -> None:
    other = save_text_model(tmp_path / "old", num_blocks=2)
    commit = hub.add_folder("org/tiny", other, "v1")
    hub.add_folder("org/tiny", model)
    assert same_files(fetched("org/tiny", cache, None), model)
    assert same_files(fetched("org/tiny@v1", cache, None), other)
    hub.forget()
    assert fetched(f"org/tiny@{commit}", cache, None).name == commit and not hub.sent
    assert open_model("org/tiny@v1", "float32", cache_dir=cache).name == "tiny"


def test_a_gguf_file_of_a_repository(hub: FakeHub, cache: Path, tmp_path: Path) -> None:
    tiny = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    hub.add("org/tiny-GGUF", {"tiny-Q8_0.gguf": tiny, "tiny-Q4_0.gguf": tiny + b"x", "README.md": b"#"})
    files = open_model("org/tiny-GGUF:Q8_0", "float32", cache_dir=cache)
    assert files.name == "tiny-GGUF:Q8_0" and hub.fetched() == {"tiny-Q8_0.gguf"}
    path = fetched("org/tiny-GGUF/tiny-Q8_0.gguf", cache, None)
    assert path.name == "tiny-Q8_0.gguf" and path.read_bytes() == tiny
    with pytest.raises(ModelNotFound, match=r"has 2 .gguf files. Name one of these.*tiny-Q4_0.gguf, tiny-Q8_0.gguf\."):
        fetched("org/tiny-GGUF", cache, None)


def test_what_says_what_a_model_is_comes_without_its_weights(
    hub: FakeHub, model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_folder("org/tiny", model)
    folder = described("org/tiny", cache)
    assert hub.fetched() == {"config.json"} and in_cache("org/tiny", cache) is None
    go_offline(monkeypatch)
    assert described("org/tiny", cache) == folder
    with pytest.raises(ModelNotFound, match="is not whole"):
        fetched("org/tiny", cache, None)


def test_of_a_gguf_file_its_beginning_comes(
    hub: FakeHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "PIECE_BYTES", 512)
    path = write_gguf(tmp_path / "tiny-Q8_0.gguf")
    hub.add("org/tiny-GGUF", {path.name: path.read_bytes()})
    head = described("org/tiny-GGUF:Q8_0", cache)
    whole, there = open_header(path), open_header(head)
    assert (there.tensors, there.metadata, there.slim) == (whole.tensors, whole.metadata, whole.slim)
    assert there.vocab_size == whole.vocab_size and head.stat().st_size == path.stat().st_size
    assert 0 < hub.sent[path.name] < path.stat().st_size / 2
    hub.forget()
    assert described("org/tiny-GGUF:Q8_0", cache) == head and not hub.sent
    assert fetched("org/tiny-GGUF:Q8_0", cache, None).read_bytes() == path.read_bytes()


def test_a_repository_of_other_weights_is_refused_before_anything_is_fetched(hub: FakeHub, cache: Path) -> None:
    hub.add("org/old", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    hub.add("org/data", {"README.md": b"#"})
    for repo, error in (("org/old", UnsupportedModel), ("org/data", ModelNotFound)):
        for ask in (lambda repo: fetched(repo, cache, None), lambda repo: described(repo, cache)):
            with pytest.raises(error):
                ask(repo)
    assert not any(file.endswith(LARGE) for file in hub.fetched())


def test_an_index_that_is_none_is_refused(hub: FakeHub, model: Path, cache: Path) -> None:
    hub.add_folder("org/tiny", model, **{f"{WEIGHTS}.index.json": b"[]"})
    with pytest.raises(DamagedCheckpoint, match="it has no weight_map"):
        fetched("org/tiny", cache, None)


def _ended_by_the_user(*_: float) -> None:
    raise KeyboardInterrupt


def _full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
