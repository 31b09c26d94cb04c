"""The page in a real browser, over a real server and a real ring."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from chromium import PHONE, WIDE, Browser, browser, why_not
from selenium.webdriver.common.keys import Keys
from serve_client import MODEL, Served, served
from tiny_text_model import save_text_model

from shardnet.serve.settings import Settings

pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(why_not()), reason=why_not())]
MOST_BYTES = 300_000
KEY = "a-key-of-24-characters-x"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(save_text_model(tmp_path_factory.mktemp("endless"), ends=False), Settings(names=(MODEL,))) as one:
        yield one


@pytest.fixture(scope="module", params=[WIDE, PHONE], ids=["wide", "phone"])
def page(request: pytest.FixtureRequest, running: Served) -> Iterator[Browser]:
    with browser(request.param) as one:
        yield one


@pytest.fixture
def anew(page: Browser, running: Served) -> Browser:
    """The page as somebody sees it who was never there."""
    page.open(running.url)
    page.run("localStorage.clear(); sessionStorage.clear()")
    page.open(running.url)
    page.wait_for("return document.getElementById('pill').dataset.state === 'ready'")
    page.errors()
    return page


def ask(page: Browser, text: str) -> None:
    page.run("document.getElementById('message').focus()")
    page.press(text, Keys.ENTER)


def is_answered(count: int) -> str:
    """Whether so many messages are there, and none is coming."""
    is_over = "document.getElementById('send').getAttribute('aria-label') === 'Send'"
    return f"return document.querySelectorAll('#messages > li').length === {count} && {is_over}"


def begin_short(page: Browser) -> None:
    """A new conversation, whose answers are short."""
    page.run("localStorage.setItem('shardnet.settings', '{\"max_tokens\": 4}')")
    page.run("document.getElementById('new-conversation').click()")


def keep(page: Browser, running: Served, *messages: tuple[str, str]) -> None:
    """A conversation in which that was said, as the browser has kept it."""
    said = [{"role": role, "content": content} for role, content in messages]
    kept = {"id": "kept", "title": "kept", "changed": 1, "messages": said, "settings": {}}
    page.run("localStorage.setItem('shardnet.conversation.kept', arguments[0])", json.dumps(kept))
    page.open(running.url)
    page.run("document.querySelector('#conversations button').click()")
    page.wait_for(f"return document.querySelectorAll('#messages > li').length === {len(messages)}")


def test_a_chat_by_the_keyboard_alone(anew: Browser) -> None:
    anew.tab_to("#message")
    assert anew.focus_is_seen()
    anew.press("Tell me something", Keys.ENTER)
    anew.wait_for("return document.querySelectorAll('#messages > li').length === 2")
    anew.wait_for("return document.querySelector('#send').getAttribute('aria-label') !== 'Send'")
    anew.tab_to("#send")
    anew.press(Keys.ENTER)  # stop
    anew.wait_for("return document.querySelector('#send').getAttribute('aria-label') === 'Send'")
    anew.tab_to("#to-cluster")
    assert anew.focus_is_seen()
    anew.press(Keys.ENTER)
    anew.wait_for("return !document.getElementById('cluster').hidden && document.getElementById('chat').hidden")
    assert anew.errors() == []


@pytest.mark.parametrize("view", ["#chat", "#cluster"])
def test_nothing_lies_beside_the_screen(anew: Browser, running: Served, view: str) -> None:
    keep(
        anew,
        running,
        ("user", "w" * 400),
        ("assistant", "```\n" + "x" * 400 + "\n```\n| a | b |\n|---|---|\n| 1 | 2 |"),
    )
    anew.run("location.hash = arguments[0]", view)
    anew.wait_for(f"return !document.querySelector('{view}').hidden")
    assert anew.run("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing_serious(running: Served, size: tuple[int, int], is_dark: bool) -> None:
    with browser(size, is_dark=is_dark) as page:
        page.open(running.url)
        keep(
            page,
            running,
            ("user", "hi"),
            ("assistant", "# A\n\n- **b** `c` [d](https://e.example)\n\n```python\nx = 1\n```"),
        )
        assert page.faults() == []
        page.run("document.getElementById('open-settings').click()")
        assert page.faults() == []
        page.press(Keys.ESCAPE)
        page.run("location.hash = '#cluster'")
        page.wait_for("return document.querySelectorAll('#devices > li').length === 3")
        assert page.faults() == []
        page.run("document.getElementById('invite').click()")
        page.wait_for("return document.getElementById('invite-error').textContent.includes('No device can join')")
        assert page.faults() == []


def test_it_is_small_and_comes_from_one_host(running: Served) -> None:
    with browser() as page:  # one that has nothing of it yet
        page.open(running.url)
        page.wait_for("return document.getElementById('pill').dataset.state === 'ready'")
        requested = page.requested()
    assert {urlsplit(each["name"]).netloc for each in requested} == {urlsplit(running.url).netloc}
    assert 10_000 < sum(each["transferSize"] for each in requested) < MOST_BYTES


HOSTILE = [
    "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "![a](https://elsewhere.example/a.png) ![b](data:image/png;base64,AAAA)",
    "[a](javascript:alert(1)) [b](data:text/html,<script>alert(1)</script>) [c](vbscript:x) [d]( JaVaScRiPt:alert(1))",
    "```html\n<script>alert(1)</script>\n```",
    "| <b>x</b> | <img src=x onerror=alert(1)> |\n|---|---|\n| <svg onload=alert(1)> | y |",
    '<https://elsewhere.example/"onmouseover=alert(1)>',
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_what_is_said_never_becomes_markup(anew: Browser, running: Served, role: str, text: str) -> None:
    keep(anew, running, (role, text))
    assert anew.run("return document.querySelectorAll('#messages img, #messages script, #messages iframe').length") == 0
    assert anew.run(
        "return [...document.querySelectorAll('#messages a')].every((a) => /^(https?|mailto):/.test(a.href))"
    )
    script = "return [...document.querySelectorAll('#messages *')].flatMap((each) => each.getAttributeNames())"
    assert not [name for name in anew.run(script) if name.startswith("on")]
    assert all(urlsplit(each["name"]).netloc == urlsplit(running.url).netloc for each in anew.requested())
    assert anew.errors() == []


def test_an_answer_can_be_asked_for_again_and_a_question_be_changed(anew: Browser) -> None:
    ask(anew, "One")
    anew.wait_for(is_answered(2), 60)
    buttons = "[...document.querySelectorAll('#messages button')]"
    click = f"{buttons}.find((each) => each.textContent.includes(arguments[0])).click()"
    anew.run(click, "Retry")
    anew.wait_for(is_answered(2), 60)
    anew.run(click, "Edit")
    anew.wait_for("return document.activeElement.tagName === 'TEXTAREA'")
    anew.press(Keys.CONTROL + "a", "Two", Keys.ENTER)
    anew.wait_for("return document.querySelector('#messages').textContent.includes('Two')")
    assert "One" not in anew.text("#messages > li:first-child")


def test_what_was_said_is_there_after_a_reload(anew: Browser, running: Served) -> None:
    ask(anew, "Remember me")
    anew.wait_for(is_answered(2), 60)
    anew.open(running.url)
    anew.wait_for("return document.querySelector('#conversations').textContent.includes('Remember me')")


def test_what_is_deleted_while_it_is_answered_stays_deleted(anew: Browser) -> None:
    """Once it was kept anew when its answer ended."""
    ask(anew, "Forget me")
    anew.wait_for("return document.querySelectorAll('#messages > li').length === 2")
    anew.run("document.querySelector('[data-act=remove]').click()")
    anew.run("document.getElementById('confirm-yes').click()")
    anew.wait_for("return document.querySelectorAll('#messages > li').length === 0")
    begin_short(anew)
    ask(anew, "Another")
    anew.wait_for(is_answered(2), 60)
    kept = anew.run("return Object.keys(localStorage).filter((each) => each.startsWith('shardnet.conversation.'))")
    assert len(kept) == 1 and "Forget me" not in anew.text("#conversations")


def test_two_tabs_lose_nothing_of_each_other(anew: Browser, running: Served) -> None:
    """Once each kept the conversation as it had been when it was opened there."""
    begin_short(anew)
    ask(anew, "First")
    anew.wait_for(is_answered(2), 60)
    one = anew.driver.current_window_handle
    anew.driver.switch_to.new_window("tab")
    try:
        anew.open(running.url)
        anew.wait_for(is_answered(2))
        ask(anew, "Second")
        anew.wait_for(is_answered(4), 60)
    finally:
        anew.driver.close()
        anew.driver.switch_to.window(one)
    anew.wait_for(is_answered(4))
    ask(anew, "Third")
    anew.wait_for(is_answered(6), 60)
    said = anew.text("#messages")
    assert all(each in said for each in ("First", "Second", "Third"))


@pytest.mark.parametrize("line", ["```" + "x" * 400_000 + "`", "# a" + " " * 400_000 + "b"], ids=["fence", "heading"])
def test_no_line_holds_the_page_up(anew: Browser, running: Served, line: str) -> None:
    """Once some took time by the square of their length: these, many minutes."""
    keep(anew, running, ("assistant", line))
    assert len(anew.text("#messages")) > 100


BROKEN = """
    for (const name of ['localStorage', 'sessionStorage']) {
        Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } });
    }
"""


def test_a_browser_that_keeps_nothing_can_talk_and_show_a_key(tmp_path: Path) -> None:
    """Once the page could then ask for nothing at all."""
    settings = Settings(names=(MODEL,), keys=(KEY,))
    with served(save_text_model(tmp_path / "tiny"), settings) as running, browser() as page:
        page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": BROKEN})
        page.open(running.url)
        page.wait_for("return document.getElementById('key').open")
        page.press(KEY, Keys.ENTER)
        page.wait_for("return document.getElementById('pill').dataset.state === 'ready'")
        ask(page, "hi")
        page.wait_for(is_answered(2), 60)
        assert page.text(".failed") == ""


def test_a_server_with_keys_is_asked_with_one(tmp_path: Path) -> None:
    settings = Settings(names=(MODEL,), keys=(KEY,))
    with served(save_text_model(tmp_path / "tiny"), settings) as running, browser() as page:
        page.open(running.url)
        page.wait_for("return document.getElementById('key').open")
        page.press("wrong" * 5, Keys.ENTER)
        page.wait_for("return document.getElementById('key').open && document.getElementById('key-why').textContent")
        page.run("document.getElementById('key-input').value = ''; document.getElementById('key-input').focus()")
        page.press(KEY, Keys.ENTER)
        page.wait_for("return document.getElementById('pill').dataset.state === 'ready'")
        assert KEY not in page.run("return location.href")
        ask(page, "hi")
        page.wait_for(is_answered(2), 60)
