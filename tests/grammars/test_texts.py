"""What is asked for, as a grammar's text; what cannot be one; and which tokens may come next."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_text_model import save_text_model

from shardnet.errors import BadRequest, UnsupportedModel
from shardnet.grammars import texts
from shardnet.grammars.matching import MOST_GRAMMARS, Matcher, Vocabulary, check_grammar, pack_tokenizer
from shardnet.loader import read_tokenizer

pytest.importorskip("llguidance")
NOTHING: dict[str, Any] = {"json_schema": None, "json_object": False, "regex": None, "lark": None, "choice": ()}


def grammar(**asked: Any) -> str:
    return texts.grammar_of(**{**NOTHING, **asked})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read_tokenizer(save_text_model(tmp_path_factory.mktemp("tokens"), num_blocks=1))


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Any) -> Vocabulary:
    return Vocabulary(pack_tokenizer(tokenizer, "tiny"))


def follows(matcher: Matcher, tokenizer: Any, text: str) -> bool:
    """Whether a text can come token by token, and may end then."""
    end = tokenizer.eos_token_id
    for token_id in tokenizer(text)["input_ids"]:
        if not matcher.allowed(len(tokenizer), [end])[token_id]:
            return False
        matcher.take([token_id])
    return bool(matcher.allowed(len(tokenizer), [end])[end])


WRITTEN = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.lists(WRITTEN, min_size=1, max_size=4), WRITTEN)
def test_a_choice_is_just_its_texts(vocabulary: Vocabulary, tokenizer: Any, given_: list[str], other: str) -> None:
    asked = grammar(choice=texts.choices_of(given_))
    for text in given_:
        assert follows(vocabulary.matcher(asked), tokenizer, text)
    assert follows(vocabulary.matcher(asked), tokenizer, other) == (other in given_)


@pytest.mark.parametrize(
    ("regex", "text"),
    [
        ("a/b", "a/b"),
        (r"a\/b", "a/b"),
        ("[/]+", "//"),
        ("a\nb", "a\nb"),
        (r"\\/x", "\\/x"),
        ("ü+", "üü"),
        (r"\d{3}", "123"),
        (r"[\d.]+", "1.2"),
        (r"\D", "x"),
        (r"\[\d\]", "[5]"),
        ("#a", "#a"),
        ('"', '"'),
    ],
)
def test_an_expression_means_what_it_means_in_python(
    vocabulary: Vocabulary, tokenizer: Any, regex: str, text: str
) -> None:
    assert re.fullmatch(regex, text)
    assert follows(vocabulary.matcher(grammar(regex=regex)), tokenizer, text)


def test_digits_are_those_of_ascii(vocabulary: Vocabulary, tokenizer: Any) -> None:
    for regex in (r"\d", r"[\d]"):
        assert not follows(vocabulary.matcher(grammar(regex=regex)), tokenizer, "\u0667")


def test_json_has_blanks_between_its_parts_but_not_for_ever(vocabulary: Vocabulary, tokenizer: Any) -> None:
    asked = grammar(json_schema=texts.schema_of({"type": "array", "items": {"type": "integer"}}))
    assert follows(vocabulary.matcher(asked), tokenizer, "[1,\n  2, 3]")
    assert not follows(vocabulary.matcher(asked), tokenizer, "[1," + " " * 17 + "2]")
    own = grammar(json_schema=texts.schema_of({"x-guidance": {"whitespace_flexible": False}, "type": "array"}))
    assert not follows(vocabulary.matcher(own), tokenizer, "[1, 2]")


def test_a_matcher_begins_where_the_grammar_does(vocabulary: Vocabulary, tokenizer: Any) -> None:
    one, other = (vocabulary.matcher(grammar(regex="ab")) for _ in range(2))
    one.take(tokenizer("ab")["input_ids"])
    assert follows(other, tokenizer, "ab") and follows(vocabulary.matcher(grammar(regex="ab")), tokenizer, "ab")
    with pytest.raises(BadRequest, match="follow"):
        vocabulary.matcher(grammar(regex="ab")).take(tokenizer("b")["input_ids"])


def test_many_threads_have_each_its_own(vocabulary: Vocabulary, tokenizer: Any) -> None:
    wrong: list[int] = []

    def follow(number: int) -> None:
        for turn in range(10):
            word = f"{number}-{turn % 3}"
            if not follows(vocabulary.matcher(grammar(choice=(word, "x" + word))), tokenizer, word):
                wrong.append(number)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(2 * MOST_GRAMMARS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_model_with_more_or_fewer_ids_than_its_tokenizer(vocabulary: Vocabulary, tokenizer: Any) -> None:
    matcher = vocabulary.matcher(grammar(regex="a+"))
    for num_ids in (len(tokenizer) + 100, len(tokenizer), 80):
        allowed = matcher.allowed(num_ids, [tokenizer.eos_token_id, -1, 10**6])
        assert len(allowed) == num_ids and int(allowed.sum()) <= 1 and not allowed[len(tokenizer) :].any()


@pytest.mark.parametrize("depth", [20, 2_000, 20_000])
@pytest.mark.parametrize("kind", ["schema", "regex", "lark"])
def test_deep_grammars_end_in_a_sentence_or_are_followed(vocabulary: Vocabulary, kind: str, depth: int) -> None:
    if kind == "schema":
        schema = '{"type":"array","items":' * depth + "{}" + "}" * depth
        asked = json.dumps({"grammars": [{"json_schema": "?"}]}).replace('"?"', schema)
    elif kind == "regex":
        asked = grammar(regex="(" * depth + "a" + ")" * depth)
    else:
        asked = grammar(lark="start: " + "(" * depth + '"a"' + ")" * depth)
    try:
        vocabulary.matcher(asked)
    except BadRequest as error:
        assert "follow" in str(error) and depth > 20
    try:
        check_grammar(asked)
    except BadRequest:
        assert depth > 20


def test_a_costly_grammar_ends_in_a_sentence(vocabulary: Vocabulary, tokenizer: Any) -> None:
    matcher = vocabulary.matcher(grammar(regex="(a|b|ab|ba|aab){0,300}(a{0,200}b{0,200}){0,200}c"))
    with pytest.raises(BadRequest, match="follow"):
        for _ in range(400):
            matcher.allowed(len(tokenizer), [])
            matcher.take(tokenizer("a")["input_ids"])
        raise BadRequest("it could be followed")


@pytest.mark.parametrize("packed", [b"", b"no"])
def test_what_is_no_tokenizer_is_refused(packed: bytes) -> None:
    with pytest.raises(UnsupportedModel, match="no grammar can be followed with this tokenizer"):
        Vocabulary(packed)


def test_a_slow_tokenizer_cannot_be_written_down() -> None:
    with pytest.raises(UnsupportedModel, match="no fast form"):
        pack_tokenizer(object(), "old")
