"""Texts of models as parts: the same however they are cut, and nothing is lost or said twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.serve.formats.bare import Bare
from shardnet.serve.formats.forced import Arguments
from shardnet.serve.formats.parts import Call, Parser, Part, Plain, Text, Thought, Tools
from shardnet.serve.formats.tagged import Tagged
from shardnet.serve.formats.thinking import Thinking

TOOLS = Tools(frozenset({"look", "wait"}))
ONE = Tools(frozenset({"look", "wait"}), is_one_call=True)
LOOK = '{"name": "look", "arguments": {"at": "sea"}}'
CALLED = Call("look", '{"at": "sea"}')
MADE: dict[str, Callable[[], Parser]] = {
    "plain": Plain,
    "tagged": lambda: Tagged(TOOLS),
    "one tagged": lambda: Tagged(ONE),
    "bare": lambda: Bare(TOOLS),
    "thinking": lambda: Thinking(Tagged(TOOLS), has_begun=False),
    "thinking from the start": lambda: Thinking(Bare(TOOLS), has_begun=True),
    "arguments": lambda: Arguments("look"),
}


def parsed(parser: Parser, pieces: Sequence[str]) -> list[Part]:
    """The parts, those of one kind that follow each other as one."""
    found: list[Part] = []
    for part in [*(part for piece in pieces for part in parser.feed(piece)), *parser.finish()]:
        last = found[-1] if found else None
        if isinstance(part, Text) and isinstance(last, Text):
            found[-1] = Text(last.text + part.text)
        elif isinstance(part, Thought) and isinstance(last, Thought):
            found[-1] = Thought(last.text + part.text)
        else:
            found.append(part)
    return found


@pytest.mark.parametrize(
    ("made", "text", "parts"),
    [
        ("plain", "<tool_call>", [Text("<tool_call>")]),
        ("tagged", "hi", [Text("hi")]),
        ("tagged", "\n", [Text("\n")]),
        ("tagged", f"\n<tool_call>\n{LOOK}\n</tool_call>\n", [CALLED]),
        ("tagged", f"well\n<tool_call>{LOOK}</tool_call>\n<tool_call>{LOOK}", [Text("well"), CALLED, CALLED]),
        ("one tagged", f"<tool_call>{LOOK}</tool_call><tool_call>{LOOK}</tool_call>", [CALLED]),
        ("tagged", "<tool_call>{}</tool_call>", [Text("<tool_call>{}</tool_call>")]),
        ("tagged", '<tool_call>{"name": "no"}</tool_call>', [Text('<tool_call>{"name": "no"}</tool_call>')]),
        ("tagged", "<tool_call>{", [Text("<tool_call>{")]),
        ("tagged", "a < b <tool", [Text("a < b <tool")]),
        ("tagged", '<tool_call>{"name":"wait"}</tool_call>', [Call("wait", "{}")]),
        ("tagged", '<tool_call>{"name":"wait","arguments":"{}"}</tool_call>', [Call("wait", "{}")]),
        ("bare", "hi {", [Text("hi {")]),
        ("bare", f" {LOOK}", [CALLED]),
        ("bare", f"[{LOOK}, {LOOK}]", [CALLED, CALLED]),
        ("bare", f"{LOOK}; {LOOK}\n", [CALLED, CALLED]),
        ("bare", f"<|python_tag|>{LOOK.replace('arguments', 'parameters')}", [CALLED]),
        ("bare", f"[TOOL_CALLS] [{LOOK}]", [CALLED]),
        ("bare", '{"a": 1}', [Text('{"a": 1}')]),
        ("bare", f"{LOOK} and so", [Text(f"{LOOK} and so")]),
        ("bare", "[" * 100_000, [Text("[" * 100_000)]),
        ("thinking", "<think>\nso\n</think>\n\nyes", [Thought("so\n"), Text("yes")]),
        ("thinking", f"<think>so</think><tool_call>{LOOK}</tool_call>", [Thought("so"), CALLED]),
        ("thinking", "no <think>so</think>", [Text("no <think>so</think>")]),
        ("thinking", "<think>so", [Thought("so")]),
        ("thinking from the start", "so</think>yes</think>", [Thought("so"), Text("yes</think>")]),
        ("thinking from the start", "so", [Thought("so")]),
        ("arguments", ' {"at": 1', [Call("look", '{"at": 1')]),
    ],
)
def test_what_a_text_means(made: str, text: str, parts: list[Part]) -> None:
    def told(part: Part) -> Part:
        return Text(part.text.rstrip("\n")) if isinstance(part, Text) and part.text.strip() else part

    assert [told(part) for part in parsed(MADE[made](), [text])] == parts


WORDS = [
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    LOOK,
    "{",
    "[",
    "]",
    "}",
    "a",
    "\n",
    " ",
    "<",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "ü",
    ";",
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(MADE)), st.lists(st.sampled_from(WORDS), max_size=9), st.data())
def test_it_means_the_same_however_it_is_cut(made: str, words: list[str], data: st.DataObject) -> None:
    text = "".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[first:end] for first, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parsed(MADE[made](), pieces) == parsed(MADE[made](), [text])
    assert parsed(MADE[made](), list(text)) == parsed(MADE[made](), [text])


def test_empty_lines_behind_a_thought_are_left_out_whenever_they_come() -> None:
    for pieces in (["<think>a</think>\n\nb\n"], ["<think>a</think>", "\n", "\nb", "\n"], ["<think>a</think>\n", "\n"]):
        parts = parsed(MADE["thinking"](), pieces)
        assert parts == [Thought("a"), Text("b\n")][: len(parts)] and len(parts) == 1 + ("b" in "".join(pieces))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([word for word in WORDS if "think" not in word]), max_size=9))
def test_no_word_is_lost(words: list[str]) -> None:
    text = "".join(words)
    for made in ("tagged", "bare", "thinking"):
        parts = parsed(MADE[made](), [text])
        calls = [part for part in parts if isinstance(part, Call)]
        if not calls:
            assert parts == ([Text(text)] if text else [])
        assert all(json.loads(call.arguments) == {"at": "sea"} for call in calls)
