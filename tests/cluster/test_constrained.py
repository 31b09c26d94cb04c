"""Answers that follow a grammar, over whole rings: valid, the same for every split, whatever is lost, each its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import ring_in_process, rings_of
from lasting_in_process import LastingInProcess, ids_of, lasting_in_process
from tiny_text_model import save_text_model

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest
from shardnet.grammars import matching
from shardnet.plan import Plan, stages_from_counts
from shardnet.session.stream import Generation

pytest.importorskip("llguidance")
NUM_TOKENS = 300
LOADED: dict[str, Any] = {"dtype": "float32", "split": (2, 2, 2), "prefill_chunk_tokens": 4}
PROMPT = "tell me of the sea"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["ü€", "b"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
DATE = r"\d{4}-\d\d-\d\d"
ASKED: list[dict[str, Any]] = [
    {"json_schema": PERSON},
    {"regex": DATE},
    {"choice": ["the sea", "the shore", "the sand/\n"]},
    {"lark": 'start: "<" word ">"\nword: /[a-z]{2,9}/'},
]
HOW: list[dict[str, Any]] = [{}, {"temperature": 1.1, "top_k": 30, "seed": 5, "repetition_penalty": 1.2}]
Texts = list[list[str]]


def is_valid(asked: dict[str, Any], text: str) -> bool:
    if "json_schema" in asked:
        found = json.loads(text)
        return set(found) == {"name", "age", "kind"} and found["kind"] in PERSON["properties"]["kind"]["enum"]  # type: ignore[index]
    if "choice" in asked:
        return text in asked["choice"]
    return re.fullmatch(asked.get("regex", "<[a-z]{2,9}>"), text) is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("constrained") / "model")


@pytest.fixture(scope="module")
def expected(folder: Path) -> Texts:
    """Of one device, alone: by what is asked and how."""
    with ring_in_process(1) as ring, ring.connect() as cluster:
        with cluster.load(folder, dtype="float32", split=[6], prefill_chunk_tokens=4) as model:
            found = [[answer(model, asked, how).text for how in HOW] for asked in ASKED]
    for asked, texts in zip(ASKED, found, strict=True):
        assert all(is_valid(asked, text) for text in texts), (asked, texts)
    return found


def answer(model: Model, asked: dict[str, Any], how: dict[str, Any], **more: Any) -> Generation:
    [found] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS, **asked, **how, **more)
    assert found.finish_reason == "eos"
    return found


def free(model: Model) -> list[int]:
    [found] = model.generate([PROMPT], max_new_tokens=5)
    return found.token_ids


@pytest.mark.parametrize("speculate", ["off", "lookup"])
@pytest.mark.parametrize("split", [[1, 5], [5, 1], [2, 2, 2]])
def test_every_split_answers_alike(folder: Path, split: list[int], speculate: str, expected: Texts) -> None:
    with ring_in_process(len(split)) as ring, ring.connect() as cluster:
        with cluster.load(folder, dtype="float32", split=split, prefill_chunk_tokens=4) as model:
            for asked, texts in zip(ASKED, expected, strict=True):
                assert [answer(model, asked, how, speculate=speculate).text for how in HOW] == texts


def test_answers_that_share_steps_follow_each_its_own_grammar(folder: Path, expected: Texts) -> None:
    with ring_in_process(3) as ring, ring.connect() as cluster:
        with cluster.load(folder, dtype="float32", split=[2, 2, 2], prefill_chunk_tokens=4) as model:
            [free] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS)
            plain = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
            streams = [
                [model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **asked, **how) for how in HOW]
                for asked in (*ASKED, *ASKED)
            ]
            found = [["".join(stream) for stream in row] for row in streams]
            assert found == [*expected, *expected] and "".join(plain) == free.text


@pytest.mark.usefixtures("quick_watch")
@pytest.mark.parametrize("standby", ["cold", "hot"])
@pytest.mark.parametrize("lost", [0, 2])
def test_whoever_is_lost_the_answers_are_the_same(folder: Path, lost: int, standby: str, expected: Texts) -> None:
    options: dict[str, Any] = {"dtype": "float32", "prefill_chunk_tokens": 4, "standby": standby}
    with ring_in_process(4) as ring, ring.connect() as cluster:
        with cluster.load(folder, split=[2, 2, 2, 0], **options) as model:
            ring.slow_down(0.002)
            streams = [
                [model.stream(PROMPT, max_new_tokens=NUM_TOKENS, speculate="lookup", **asked, **how) for how in HOW]
                for asked in ASKED
            ]
            begun = [[next(stream) for stream in row] for row in streams]
            ring.network.kill(model.plan.devices[lost])
            found = [
                [first + "".join(stream) for first, stream in zip(firsts, row, strict=True)]
                for firsts, row in zip(begun, streams, strict=True)
            ]
            assert found == expected


def test_an_answer_that_is_cut_off_says_so_and_may_have_no_end(folder: Path, model: Model) -> None:
    [found] = model.generate([PROMPT], max_new_tokens=4, regex=DATE)
    assert found.finish_reason == "length" and re.fullmatch(r"\d{4}", found.text)


@pytest.fixture
def model(folder: Path) -> Iterator[Model]:
    with ring_in_process(2) as ring, ring.connect() as cluster:
        with cluster.load(folder, dtype="float32", split=[3, 3], prefill_chunk_tokens=4) as loaded:
            yield loaded


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"regex": "(a"}, "grammar is not one that an answer can follow: "),
        ({"regex": "(?=a)b"}, "grammar is not one that an answer can follow: "),
        ({"regex": ""}, "regex must be text and not empty, but is ''."),
        ({"lark": "start: nobody"}, "grammar is not one that an answer can follow: "),
        ({"json_schema": {"type": "thing"}}, "grammar is not one that an answer can follow: "),
        ({"json_schema": {"type": "array", "uniqueItems": True}}, "grammar is not one that an answer can follow: "),
        ({"json_schema": "{"}, "json_schema must be a JSON schema, but this is none: "),
        ({"json_schema": [1]}, "json_schema must be an object, as a JSON schema is, but is [1]."),
        ({"choice": [5]}, "choice must be text and not empty, but is 5."),
        ({"choice": ["a\x01"]}, "choice must hold no control characters, but one is 'a\\x01'."),
        ({"regex": "a", "choice": ["b"]}, "choice cannot be combined with regex: an answer follows one grammar."),
        ({"regex": "a" * 300_000}, "regex has 300,000 characters, more than the 262,144 that a grammar may have."),
        (
            {"regex": "a", "min_tokens": 3},
            "min_tokens cannot be kept where the grammar of an answer says when it ends.",
        ),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos cannot be kept where the grammar of an answer says when it"),
    ],
)
def test_what_no_answer_can_follow_is_one_sentence(model: Model, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest, match="^" + re.escape(sentence)):
        model.stream(PROMPT, **asked)


def test_a_device_that_cannot_read_grammars_says_what_it_needs(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before = free(model)
    with monkeypatch.context() as patch:
        patch.setattr(matching, "is_installed", lambda: False)
        with pytest.raises(BadRequest, match=re.escape("Install it: pip install 'shardnet[grammar]'")):
            model.stream(PROMPT, regex=DATE)
    assert answer(model, {"regex": DATE}, {}).text and free(model) == before


def test_a_model_without_an_end_needs_one(tmp_path: Path) -> None:
    folder = save_text_model(tmp_path / "endless", ends=False)
    with ring_in_process(1) as ring, ring.connect() as cluster, cluster.load(folder, split=[6]) as model:
        with pytest.raises(BadRequest, match=r"^stop_token_ids must name a token that ends the answer: "):
            model.stream(PROMPT, regex="a+b")
        [found] = model.generate([PROMPT], regex="a{3}b", stop_token_ids=[model.tokenizer.eos_token_id])
        assert found.text == "aaab" and found.finish_reason == "stop"


class TestOverACluster:
    @pytest.fixture
    def cluster(self, tmp_path: Path, folder: Path, quick_watch: None) -> Iterator[LastingInProcess]:
        with lasting_in_process(3, folder=tmp_path / "state") as cluster:
            cluster.coordinator.begin(str(folder), LOADED).done.result(60)
            cluster.network.delay("b", "c", 0.01)
            yield cluster

    def test_its_coordinator_is_killed(self, cluster: LastingInProcess, folder: Path, expected: Texts) -> None:
        with cluster.connect() as source:
            streams = [source.model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **asked, **HOW[1]) for asked in ASKED]
            begun = [next(stream) for stream in streams]
            cluster.kill()
            cluster.restart()
            cluster.coordinator.begin(str(folder), LOADED)
            found = [first + "".join(stream) for first, stream in zip(begun, streams, strict=True)]
            assert found == [texts[1] for texts in expected]

    def test_an_answer_that_broke_off_is_resumed(
        self, cluster: LastingInProcess, folder: Path, expected: Texts
    ) -> None:
        source = cluster.connect()
        stream = source.model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **ASKED[0])
        for _ in zip(range(40), stream.ids(), strict=False):
            pass
        source.unload()
        with pytest.raises(BadRequest, match="shardnet resume 1"):
            ids_of(stream)
        source.load(folder, dtype="float32", split=(3, 2, 1), prefill_chunk_tokens=4)
        resumed = source.resume()
        assert "".join(resumed) == expected[0][0] and resumed.result.finish_reason == "eos"

    @pytest.mark.parametrize("asked", [{"regex": "(a"}, {"regex": "a", "choice": ["b"]}])
    def test_what_no_answer_can_follow_is_refused(self, cluster: LastingInProcess, asked: dict[str, Any]) -> None:
        with cluster.connect() as source:
            with pytest.raises(BadRequest, match="follow"):
                source.model.stream(PROMPT, **asked)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(matching, "check_grammar", lambda *_: None)
                patch.setattr("shardnet.session.request.check_grammar", lambda *_: None)
                with pytest.raises(BadRequest, match="follow"):
                    source.model.stream(PROMPT, **asked)
            assert source.model.generate([PROMPT], max_new_tokens=3)


def test_layers_move_meanwhile(folder: Path, expected: Texts) -> None:
    with ring_in_process(3) as ring, ring.connect() as cluster:
        with cluster.load(folder, dtype="float32", split=[2, 2, 2], prefill_chunk_tokens=4) as model:
            ring.slow_down(0.002)
            streams = [model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **asked, **HOW[1]) for asked in ASKED]
            begun = [next(stream) for stream in streams]
            for split in ([1, 4, 1], [4, 1, 1], [2, 1, 3]):
                plan = Plan(stages_from_counts(["c", "a", "b"] if split[0] > 3 else ring.names, split))
                assert rings_of(model).go_over(lambda *_, plan=plan: plan)
            found = [first + "".join(stream) for first, stream in zip(begun, streams, strict=True)]
            assert found == [texts[1] for texts in expected]
