"""Clients of OpenAI's API as they are: litellm, OpenAI's agents, and OpenAI's own for event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from processes import wait_until
from serve_client import MODEL, Served, served
from tiny_text_model import save_text_model

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
