"""`shardnet chat` and `shardnet top` with a cluster that runs, at a terminal and in a pipe: real processes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until
from telling_command import TellingCommand
from tiny_text_model import save_text_model
from warm_python import WARM_PYTHON

from shardnet.source.listening import Listening
from shardnet.source.running_cluster import RunningCluster
from shardnet.transport.listener_messages import StraightToken, StraightTokens

COMMAND = (*WARM_PYTHON, "-m", "shardnet.launch.cli")
NUM_LONG = 4000
Done = subprocess.CompletedProcess[str]


class Cluster:
    """One device that coordinates itself."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        options = ("--listen", "none", "--state", self.state, "--threads", 1, "--name", "one", "--json")
        model = ("--model", save_text_model(folder / "model"), "--dtype", "float32")
        self.up = TellingCommand([*COMMAND, "up", *options, *model])

    def command(self, *arguments: object) -> list[str]:
        return [*COMMAND, *map(str, arguments), "--cluster", str(self.state)]

    def run(self, *arguments: object, text: str = "") -> Done:
        command = self.command(*arguments)
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)


class Terminal:
    """A command at a terminal, and what it has shown."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # nobody has the other end any more
            while part := os.read(self._ours, 4096):
                self.shown += part.decode("utf-8", "replace")

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.shown.count(text) >= times or self.process.poll() is not None)
        assert self.shown.count(text) >= times, self.shown

    def type_until(self, text: str, line: str) -> None:
        """Type a line again and again, until a text is shown: what is typed before Ctrl-C is heard goes with it."""

        def is_shown() -> bool:
            self.type(line)
            time.sleep(0.5)
            return text in self.shown

        wait_until(is_shown)

    def shown_behind(self, text: str) -> str:
        """What is printed behind it; nothing as long as it is not there. No escapes of readline."""
        return re.sub(r"\x1b\[\?2004[hl]", "", self.shown.partition(text)[2]).strip()

    def end(self) -> int:
        code = self.process.wait(60)
        self._reader.join(10)
        os.close(self._ours)
        return code


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, warm_python: None) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    wait_until(lambda: running.up.told("loaded") is not None or running.up.process.poll() is not None)
    assert running.up.told("loaded"), running.up.events
    yield running
    running.up.process.send_signal(signal.SIGINT)
    assert running.up.process.wait(30) == 0


def answer_of(cluster: Cluster, num_tokens: int, *said: tuple[str, str]) -> str:
    """What the model says to messages."""
    messages = [{"role": role, "content": content} for role, content in said]
    with RunningCluster.connect(cluster.state) as asked:
        return "".join(asked.model.stream(messages, max_new_tokens=num_tokens))


def test_tokens_come_straight_from_the_process_that_samples(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[StraightToken] = []
    hear = Listening._hear

    def noted(listening: Listening, tokens: StraightTokens) -> None:
        came.extend(tokens)
        hear(listening, tokens)

    monkeypatch.setattr(Listening, "_hear", noted)
    with RunningCluster.connect(cluster.state) as asked:
        [answer] = asked.model.generate(["Hello"], max_new_tokens=20)
    assert came, "not one has"
    assert all(answer.token_ids[token.index] == token.token_id for token in came)


def test_each_line_of_a_pipe_is_a_turn_and_the_next_one_knows_the_last(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    typed = f"Hello\nGo \\\non\n/save {file}\n/stats\n/quit\nnot read\n"
    done = cluster.run("chat", "-n", 6, text=typed)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    saved = json.loads(file.read_text())["messages"]
    assert [each["role"] for each in saved] == ["user", "assistant", "user", "assistant"]
    said = [each["content"] for each in saved]
    assert said[::2] == ["Hello", "Go \non"]
    assert said[1] == answer_of(cluster, 6, ("user", "Hello"))
    assert said[3] == answer_of(cluster, 6, ("user", "Hello"), ("assistant", said[1]), ("user", "Go \non"))
    assert done.stdout.startswith(f"{said[1]}\n{said[3]}\nWhat was said is in ")
    assert "In use: " in done.stdout


def test_guesses_are_asked_for_as_elsewhere(cluster: Cluster) -> None:
    asked = ("chat", "-n", 12, "--temperature", 0)
    plain, guessed = (cluster.run(*asked, *more, text="hello\n") for more in ((), ("--speculate", "lookup")))
    assert (guessed.returncode, guessed.stdout, guessed.stderr) == (0, plain.stdout, "")
    for refused, said in (
        (("chat", "--speculate", "draft"), "--speculate draft needs --draft MODEL"),
        (("chat", "--draft", "/no/such/model"), "/no/such/model"),
        (("resume", "--draft", "/no/such/model"), "/no/such/model"),
    ):
        done = cluster.run(*refused)
        assert (done.returncode != 0, done.stdout, done.stderr.count("\n")) == (True, "", 1) and said in done.stderr


def test_what_is_asked_of_the_chat_itself(cluster: Cluster) -> None:
    typed = "/system Be brief.\nHello\n/reset\n/stats\n/help\n"
    done = cluster.run("chat", "-n", 2, text=typed)
    assert done.returncode == 0, done.stderr
    answer = answer_of(cluster, 2, ("system", "Be brief."), ("user", "Hello"))
    assert done.stdout.startswith(f"{answer}\nThe last answer: 2 tokens, ") and "/save FILE" in done.stdout


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("/frobnicate\n", "'/frobnicate' is nothing that a chat can be asked. /help shows what is."),
        ("/retry\n", "there is no answer yet that /retry could ask for again."),
        ("/load\n", "/load needs the name of a file"),
        ("/load /dev/null\n", "is no chat that /save has written"),
        ("/save\n", "/save needs the name of a file"),
        ("/save /no/such/folder/file\n", "cannot be written: No such file or directory. Name another file."),
        ("Hello\n" + "word " * 5000 + "\n", "leaves no room for an answer. /reset begins anew."),
    ],
    ids=["unknown", "nothing to retry", "nothing to load", "no chat", "no name", "no folder", "too long"],
)
def test_what_a_program_asks_in_vain_ends_the_chat(cluster: Cluster, typed: str, said: str) -> None:
    done = cluster.run("chat", "-n", 2, text=typed)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


def told(cluster: Cluster, event: str) -> list[dict[str, Any]]:
    return [each for each in list(cluster.up.events) if each.get("event") == event]


def test_lines_are_called_back_in_the_next_chat_and_what_is_pasted_stays_together(
    cluster: Cluster, tmp_path: Path
) -> None:
    pytest.importorskip("readline")
    began = len(told(cluster, "session began"))
    for keys in ("\x1b[200~One\rtwo\x1b[201~\r", "\x1b[A\r"):  # pasted; then called back by the arrow
        terminal = Terminal(cluster.command("chat", "-n", 2), XDG_STATE_HOME=str(tmp_path), TERM="xterm")
        terminal.wait_for("> ")
        terminal.type(keys)
        began += 1
        wait_until(lambda: len(told(cluster, "session ended")) >= began)  # noqa: B023
        terminal.type_until("The last answer: 2 tokens", "/stats\r")
        terminal.type("/save " + str(tmp_path / f"{began}.json") + "\r")
        terminal.wait_for("What was said is in")
        terminal.type("\x04")
        assert terminal.end() == 0, terminal.shown
        [message, _] = json.loads((tmp_path / f"{began}.json").read_text())["messages"]
        assert message == {"role": "user", "content": "One\ntwo"}
        kept = tmp_path / "shardnet" / "chat_lines"
        assert kept.stat().st_mode & 0o777 == 0o600
        # the arrow calls back what was typed last
        kept.write_text(json.dumps("One\ntwo") + "\n")


def test_a_chat_that_was_saved_goes_on_and_an_answer_is_made_anew(cluster: Cluster, tmp_path: Path) -> None:
    first, then = tmp_path / "first.json", tmp_path / "then.json"
    done = cluster.run("chat", "-n", 2, text=f"/system Be brief.\nHello\n/save {first}\n")
    assert done.returncode == 0, done.stderr
    done = cluster.run("chat", "-n", 2, text=f"/load {first}\n/retry\nGo on\n/save {then}\n")
    assert done.returncode == 0, done.stderr
    before, after = (json.loads(file.read_text())["messages"] for file in (first, then))
    assert after[:3] == before and len(after) == 5  # greedy: made anew, it is the same
    assert done.stdout.startswith(f"The chat of 1 turn in {first} goes on.\n{before[2]['content']}\n")


def test_ctrl_c_stops_an_answer_and_not_the_chat(cluster: Cluster, tmp_path: Path) -> None:
    terminal = Terminal(cluster.command("chat", "-n", NUM_LONG), XDG_STATE_HOME=str(tmp_path))
    terminal.wait_for("Ctrl-D to end.")
    terminal.wait_for("> ")
    before = len(told(cluster, "session ended"))
    terminal.type("Hello\r")
    wait_until(lambda: terminal.shown_behind("Hello") != "")  # before that, there is no answer to stop
    terminal.process.send_signal(signal.SIGINT)
    wait_until(lambda: len(told(cluster, "session ended")) > before)
    assert told(cluster, "session ended")[-1].get("num_tokens", 0) < NUM_LONG
    terminal.type_until("The last answer: ", "/stats\r")
    terminal.process.send_signal(signal.SIGINT)  # where nothing is to be stopped, too
    terminal.type_until("is nothing that a chat can be asked", "/nothing\r")
    terminal.type("\x04")
    assert terminal.end() == 0, terminal.shown


def test_ctrl_c_ends_a_chat_that_reads_a_pipe(cluster: Cluster) -> None:
    """It is no way to the next line: a file may have thousands."""
    before, num_lines = len(told(cluster, "session began")), 100
    command = cluster.command("chat", "-n", NUM_LONG)
    chat = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    assert chat.stdin is not None
    chat.stdin.write(b"Hello\n" * num_lines)
    chat.stdin.close()
    wait_until(lambda: len(told(cluster, "session began")) > before)
    chat.send_signal(signal.SIGINT)
    assert chat.wait(60) == 130
    wait_until(lambda: len(told(cluster, "session ended")) == len(told(cluster, "session began")))
    assert len(told(cluster, "session began")) < before + num_lines


def test_where_standard_input_is_closed_nothing_is_asked(cluster: Cluster) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *cluster.command("chat")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_top_tells_how_fast_it_goes_and_what_time_goes_to(cluster: Cluster) -> None:
    asking = subprocess.Popen(
        cluster.command("generate", "--prompt", "Hello", "--max-new-tokens", NUM_LONG, "--json"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    looking = TellingCommand(cluster.command("top", "--json", "--every", 0.5))
    try:
        wait_until(lambda: any(is_busy(each) for each in looking.events))
    finally:
        asking.kill()
        asking.wait()
        looking.process.send_signal(signal.SIGINT)
        assert looking.process.wait(30) == 0
    busy = next(each for each in looking.events if is_busy(each))
    (stage,) = busy["stages"]
    assert stage["device"] == "one"
    assert sum(stage[f"{what}_share"] for what in ("compute", "wire", "idle")) == pytest.approx(1)
    assert "session began" in [each["event"] for each in busy["events"]]


def is_busy(look: dict[str, Any]) -> bool:
    shares = [stage["compute_share"] for stage in look["stages"]]
    return bool(look["tokens_per_s"]) and None not in shares and sum(shares) > 0.1


def test_top_once_is_a_look_for_a_person_or_a_program(cluster: Cluster) -> None:
    done = cluster.run("top", "--once", "--json")
    look = json.loads(done.stdout)
    assert done.returncode == 0 and look["tokens_per_s"] is not None and len(look["members"]) == 1
    done = cluster.run("top")
    assert done.returncode == 0 and "tokens/s" in done.stdout and "compute" in done.stdout, done.stderr


def test_top_fills_a_terminal_until_q(cluster: Cluster) -> None:
    terminal = Terminal(cluster.command("top", "--every", 0.2))
    terminal.wait_for("tokens/s", 2)
    assert "\x1b[?1049h" in terminal.shown, "the screen that there was comes back"
    terminal.type("q")
    assert terminal.end() == 0, terminal.shown
    assert "\x1b[?1049l" in terminal.shown


def test_top_does_not_outlive_a_terminal_that_is_gone(cluster: Cluster) -> None:
    """Where nothing ends it with that: it would read the end of its input again and again, on a whole core."""
    ours, theirs = pty.openpty()
    command = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *cluster.command("top", "--every", 3600)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    while b"tokens/s" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)
    process.wait(60)


def test_top_looks_once_at_a_terminal_that_can_only_print_lines(cluster: Cluster) -> None:
    terminal = Terminal(["env", "TERM=dumb", *cluster.command("top")])
    terminal.wait_for("tokens/s")
    assert terminal.end() == 0, terminal.shown
