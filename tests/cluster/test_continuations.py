"""Continuations of a prompt are scored through a ring: as `transformers` has them, and the prompt is computed once."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from in_process_ring import load, loaded, ring_in_process, scored_alone
from lasting_in_process import lasting_in_process
from tiny_text_model import save_text_model

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, UnsupportedModel

RANDOM = Random(7)
PROMPT = [RANDOM.randrange(90) for _ in range(40)]
BEHIND = [[5], [6], [7, 8, 9], [7, 8, 10], [11, 12]]
TEXT, ANSWERS = "The ferry leaves at ", ["seven", "nine o'clock", "x"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("words"))


def check(folder: Path, model: Model) -> None:
    for prompt, each_behind in ((PROMPT, BEHIND), (PROMPT[:1], BEHIND)):
        found = model.score_continuations(prompt, each_behind)
        for behind, one in zip(each_behind, found, strict=True):
            expected, likeliest = scored_alone(folder, prompt + behind)
            assert one.token_ids == tuple(behind)
            assert one.log_likelihoods == pytest.approx(expected[-len(behind) :], abs=2e-4)
            assert one.likeliest == tuple(likeliest[-len(behind) :])
            assert one.log_likelihood == pytest.approx(sum(one.log_likelihoods))
            assert one.mean_log_likelihood == pytest.approx(one.log_likelihood / len(behind))


@pytest.mark.parametrize("split", [[6], [2, 2, 2], [1, 4, 1]])
def test_each_is_as_likely_as_in_transformers(words: Path, split: list[int]) -> None:
    with loaded(words, split) as (_, model):
        check(words, model)
        check(words, model)  # now stages have all of it


def test_so_it_is_for_a_source(words: Path) -> None:
    with lasting_in_process() as cluster, cluster.connect() as source:
        check(words, source.load(words, dtype="float32", split=[3, 3]))


def test_the_prompt_is_computed_once_and_texts_that_differ_in_the_last_token_are_read_once(words: Path) -> None:
    with loaded(words, [2, 2, 2]) as (ring, model):
        model.score_continuations(PROMPT, BEHIND)
        for worker in ring.workers.values():
            for host in worker._stages.hosts():
                host.standings().result(60)
        first, pair, lone = (
            len(PROMPT),
            1 + 2,
            1 + 1,
        )  # the prompt's last token is computed with each: its row is wanted
        assert [report.num_tokens for report in model.report()] == [first + pair + lone] * 3


def test_texts_are_cut_where_lm_eval_harness_cuts_them(words: Path) -> None:
    with loaded(words, [3, 3]) as (_, model):
        found = model.score_continuations(TEXT, ANSWERS)
        for answer, one in zip(ANSWERS, found, strict=True):
            assert list(one.token_ids) == model.encode(f" {answer}")
            assert model.score(f"{TEXT}{answer}").log_likelihoods[-len(one.token_ids) :] == pytest.approx(
                one.log_likelihoods, abs=2e-4
            )


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_a_lost_device_changes_nothing(quick_watch: None, words: Path, lost: str) -> None:
    """After the first text: the others have begun with what stages had of it."""
    with ring_in_process() as ring, ring.connect() as cluster, load(cluster, words) as model:
        expected = [scored_alone(words, PROMPT + behind)[0][-len(behind) :] for behind in BEHIND]
        seen: list[int] = []

        def on_progress(done: int, _all: int) -> None:
            if not seen:
                ring.network.kill(lost)
            seen.append(done)

        found = model.score_pairs([(PROMPT, behind) for behind in BEHIND], on_progress)
        assert seen[0] < seen[-1] == len(BEHIND)
        for one, likelihoods in zip(found, expected, strict=True):
            assert one.log_likelihoods == pytest.approx(likelihoods, abs=2e-4)


def test_what_cannot_be_scored_is_refused(words: Path, tmp_path: Path) -> None:
    with loaded(words, [3, 3]) as (_, model):
        for prompt, behind, said in (
            ("One", [""], "is empty"),
            ("One", "two", "come in a list"),
            ("One", [[5]], "must both be text"),
            ("One", ["x" * 5000], "context holds 4096"),
        ):
            with pytest.raises(BadRequest, match=said):
                model.score_continuations(prompt, behind)
    with loaded(save_text_model(tmp_path, labels=("a", "b")), [3, 3]) as (_, model):
        with pytest.raises(UnsupportedModel, match="is a classifier"):
            model.score_continuations("One", ["two"])
