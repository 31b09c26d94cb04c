"""Clients of OpenAI's API as they are: litellm, OpenAI's agents, and OpenAI's own for event loops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from processes import wait_until
from serve_client import MODEL, Served, served
from tiny_text_model import save_text_model
from tool_templates import HERMES, folder_with

from shardnet.serve import asked

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(save_text_model(tmp_path_factory.mktemp("endless"), ends=False)) as one:
        yield one


def expected(running: Served, num_tokens: int = 12) -> str:
    [result] = running.model.generate([HI], max_new_tokens=num_tokens)
    return result.text


def test_litellm(running: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    where = {"model": f"openai/{MODEL}", "api_base": f"{running.url}/v1", "api_key": "none", "num_retries": 0}
    told = litellm.completion(messages=HI, max_tokens=12, temperature=0, **where)
    assert told.choices[0].message.content == expected(running)
    assert told.usage.completion_tokens == 12
    stream = litellm.completion(messages=HI, max_tokens=12, temperature=0, stream=True, **where)
    assert "".join(each.choices[0].delta.content or "" for each in stream) == expected(running)
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(messages=HI, max_tokens=9999, **where)


def test_agents(running: Served) -> None:
    agents = pytest.importorskip("agents")
    openai = pytest.importorskip("openai")
    agents.set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    agent = agents.Agent(
        name="one",
        model=agents.OpenAIChatCompletionsModel(MODEL, client),
        model_settings=agents.ModelSettings(temperature=0, max_tokens=12),
    )

    async def run() -> str:
        return str((await agents.Runner.run(agent, "hi")).final_output)

    assert asyncio.run(run()) == expected(running)


CALL = '<tool_call>{"name": "look", "arguments": {"at": "sea"}}</tool_call>'


@pytest.fixture(scope="module")
def with_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(folder_with(tmp_path_factory.mktemp("tools"), HERMES)) as one:
        yield one


def say(patch: pytest.MonkeyPatch, *texts: str) -> list[str]:
    """Have a model of random weights say just these, one after the other. Returns what is still to be said."""
    left = list(texts)
    patch.setattr(asked, "form_of", lambda body: {"choice": [left.pop(0)]})
    return left


@pytest.mark.parametrize("kind", ["chats", "responses"])
@pytest.mark.parametrize("streams", [False, True])
def test_an_agent_calls_a_tool_and_goes_on(
    with_tools: Served, kind: str, streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = pytest.importorskip("agents")
    openai = pytest.importorskip("openai")
    agents.set_tracing_disabled(True)
    seen: list[str] = []

    @agents.function_tool  # type: ignore[untyped-decorator]
    def look(at: str) -> str:
        """Looks at a place."""
        seen.append(at)
        return "calm"

    client = openai.AsyncOpenAI(base_url=f"{with_tools.url}/v1", api_key="none", max_retries=0)
    made = agents.OpenAIChatCompletionsModel if kind == "chats" else agents.OpenAIResponsesModel
    agent = agents.Agent(name="one", instructions="be brief", model=made(MODEL, client), tools=[look])
    left = say(monkeypatch, CALL, "the sea is calm")

    async def run() -> str:
        if not streams:
            return str((await agents.Runner.run(agent, "how is the sea?")).final_output)
        result = agents.Runner.run_streamed(agent, "how is the sea?")
        async for _ in result.stream_events():
            pass
        return str(result.final_output)

    assert asyncio.run(run()) == "the sea is calm" and seen == ["sea"] and left == []


def test_litellm_calls_a_tool_and_asks_for_a_form(with_tools: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    where = {"model": f"openai/{MODEL}", "api_base": f"{with_tools.url}/v1", "api_key": "none", "num_retries": 0}
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    told = litellm.completion(messages=HI, response_format=form, **where)
    assert json.loads(told.choices[0].message.content)["n"] in (1, 2)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    say(monkeypatch, CALL, CALL, "text")
    told = litellm.completion(messages=HI, tools=tools, **where)
    assert told.choices[0].message.tool_calls[0].function.name == "look"
    chunks = list(litellm.completion(messages=HI, tools=tools, stream=True, **where))
    whole = litellm.stream_chunk_builder(chunks)
    assert json.loads(whole.choices[0].message.tool_calls[0].function.arguments) == {"at": "sea"}
    told = litellm.responses(input="hi", **where)
    assert told.output[0].content[0].text == "text"


def test_a_task_that_is_cancelled_ends_its_answer(running: Served) -> None:
    openai = pytest.importorskip("openai")

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(model=MODEL, messages=HI, max_tokens=4000, stream=True)
            async for _ in stream:
                break
            await stream.close()
            whole = asyncio.ensure_future(
                client.chat.completions.create(model=MODEL, messages=HI, max_tokens=4000, timeout=60)
            )
            await asyncio.sleep(0.2)
            whole.cancel()
            with pytest.raises(asyncio.CancelledError):
                await whole

    asyncio.run(run())
    wait_until(lambda: running.num_sessions() == 0)
