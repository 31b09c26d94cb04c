"""Scripts of the test bed on real processes, beside what the simulator says of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from testbed import bed
from testbed.__main__ import main
from testbed.memory_group import GROUPS, PROCESS_BYTES, MemoryGroup
from testbed.outcome import News, Outcome, Struck, outcome_of, predicted_outcome
from testbed.play import Played, play
from testbed.report import as_dict, as_table, verdict
from tiny_text_model import save_text_model
from warm_python import WARM_PYTHON

from shardnet.launch.plan.options import PlannerOptions
from shardnet.launch.plan.run import ConfiguredPlanner
from shardnet.launch.plan.scripts import script_problem, script_run
from shardnet.simulator import Event, Script, read_script, simulate

TESTS = Path(__file__).parents[1]
NUM_TOKENS = 48


@pytest.fixture(scope="module")
def warm_nests(warm_python: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bed, "NEST_COMMAND", (*WARM_PYTHON, "-m", "testbed.nest"))
        yield


def tiny_script(folder: Path) -> Script:
    """A kill at a token, one of several conversations sampled, and a device that joins; the model has six units."""
    return read_script(
        {
            "name": "tiny",
            "model": str(save_text_model(folder)),
            "devices": [*({"name": name, "units": 2} for name in "abc"), {"name": "d"}],
            "conversations": [
                {"prompt": "once", "tokens": NUM_TOKENS},
                {"prompt_tokens": 20, "tokens": NUM_TOKENS, "temperature": 0.9, "repetition_penalty": 1.2, "seed": 3},
            ],
            "events": ["token=4 join d", "token=8 slow a 2x", "token=16 kill b"],
        }
    )


def since_loss(kinds: Sequence[str]) -> list[str]:
    """Losses and recoveries, each once: on a busy machine others may be suspected besides."""
    return [kind for kind in dict.fromkeys(kinds[kinds.index("lost") :]) if kind in ("lost", "recovered")]


def predicted(script: Script) -> Outcome:
    run = script_run(script, script_problem(script), ConfiguredPlanner(PlannerOptions()))
    return predicted_outcome(
        simulate(run.asked.problem, run.start, run.load, run.events, replace(run.recovery, rebalance=False)),
        run.events,
    )


@pytest.mark.usefixtures("warm_nests")
def test_a_script_gives_the_same_events_on_processes_and_on_paper(tmp_path: Path) -> None:
    script = tiny_script(tmp_path / "model")
    told: list[str] = []
    played = play(script, lambda at_s, tokens, text: told.append(f"{tokens} {text}"), cache_dir=tmp_path / "cache")
    assert played.errors == [] and played.is_right, verdict(played)
    assert [len(ids) for ids in played.expected] == [NUM_TOKENS, NUM_TOKENS]
    on_paper = predicted(script)
    assert on_paper.kinds == ("lost", "recovered")
    assert since_loss(played.outcome.kinds) == ["lost", "recovered"]
    assert [each.event for each in played.outcome.felt] == [each.event for each in on_paper.felt]
    assert [line for line in told if line in ("4 join d", "8 slow a 2x", "16 kill b")] == [
        "4 join d",
        "8 slow a 2x",
        "16 kill b",
    ]
    kill = played.outcome.felt[2]
    assert kill.known_s is not None and kill.repaired_s is not None and kill.token_s is not None
    assert played.missing == []
    shown = as_dict(played, on_paper)
    assert json.loads(json.dumps(shown))["measured"]["felt"][2]["event"] == "token=16 kill b"
    assert "token=16 kill b" in as_table(played.outcome, on_paper)


def test_a_wrong_text_is_told() -> None:
    empty = outcome_of([], [], [[]])
    right = Played(empty, [[1, 2], [3]], [[1, 2], [3]], [], [])
    assert right.is_right and "token for token" in verdict(right)
    assert "conversations 1 differ" in verdict(replace(right, ids=[[1, 2], [4]]))
    assert not replace(right, ids=[[1]]).is_right


def test_what_an_outcome_is_made_of() -> None:
    kill, cut = Event(None, "kill", "b", token=3), Event(9, "cut", "a", "b")
    news = [News(3.2, "lost", "b"), News(3.3, "lost", "c"), News(3.7, "recovered")]
    came_s = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.5, 2.5, 3.6, 4.5]]
    outcome = outcome_of([Struck(kill, 3.0), Struck(cut, 9.0, is_emulated=False)], news, came_s)
    assert outcome.kinds == ("lost", "lost", "recovered")
    felt = outcome.felt[0]
    assert (felt.known_s, felt.repaired_s, felt.token_s) == pytest.approx((0.2, 0.5, 0.8))
    assert outcome.felt[1].known_s is None and not outcome.felt[1].is_emulated
    assert outcome.before_per_s == pytest.approx(4 / 2)
    assert outcome.after_per_s is None, "nothing came after the last event"
    assert outcome.gaps[0].seconds == pytest.approx(1.1) and outcome.gaps[0].conversation == 1
    assert "not emulated" in as_table(outcome, None)


def test_bad_scripts_end_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: bad\ndevices: [{name: a}]\nevents:\n  - t=5 kill x\n")
    monkeypatch.setattr(sys, "argv", ["testbed", str(file)])
    assert main() == 2
    said = capsys.readouterr().err
    assert said == "testbed: bad.yaml: event 'kill x': no device is called 'x'; known are a, coordinator.\n"


@pytest.mark.root
def test_a_device_that_takes_more_than_its_memory_is_killed() -> None:
    if not (GROUPS / "memory.limit_in_bytes").exists():
        pytest.skip(f"waits for control groups of version 1: {GROUPS}/memory.limit_in_bytes is not there")
    group = MemoryGroup(f"shardnet-bed-{os.getpid()}-greedy", 2**20)
    try:
        for num_bytes, code in ((2**20, 0), (PROCESS_BYTES + 2**25, -signal.SIGKILL)):
            pid = os.fork()
            if not pid:
                group.enter()
                bytearray(num_bytes)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
    finally:
        group.remove()


@pytest.mark.root
def test_a_device_in_a_namespace_dies_and_the_text_stays_as_it_is(tmp_path: Path) -> None:
    if (reason := bed.why_not()) is not None:
        pytest.skip(reason)
    model = save_text_model(tmp_path / "model")
    file = tmp_path / "kill.yaml"
    file.write_text(
        f"name: kill in namespaces\nmodel: {model}\n"
        "devices: [{name: a, units: 2, memory_gib: 0.1}, {name: b, units: 2}, {name: c, units: 2}]\n"
        "links: [{from: all, to: all, mbit_per_s: 50, latency_ms: 3, loss: 0.001}]\n"
        "conversations: [{prompt: once, tokens: 60}]\n"
        "events: [token=20 slow a>b 2x, token=30 kill b, token=40 cut a>b, token=45 mend a>b]\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "testbed", str(file), "--json", "--predict"],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "SHARDNET_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["is_right"] and told["errors"] == []
    assert since_loss(told["measured"]["kinds"]) == told["predicted"]["kinds"] == ["lost", "recovered"]
    assert [each["is_emulated"] for each in told["measured"]["felt"]] == [True] * 4
    # Three hops of a lap take 3 ms each, one of them twice as long for a while.
    assert told["measured"]["before_per_s"] < 1 / 0.009
    if (GROUPS / "memory.limit_in_bytes").exists():
        assert told["not_emulated"] == ""
        assert list(GROUPS.glob("shardnet-bed-*")) == []


@pytest.mark.root
def test_layers_leave_a_device_that_is_carried_away_from_the_wifi(tmp_path: Path) -> None:
    """Two of three devices are needed, and one is the fastest: the ring comes by it twice. There is no room for a
    better plan beside the one that is there, so that layers move in steps."""
    if (reason := bed.why_not()) is not None:
        pytest.skip(reason)
    model = save_text_model(tmp_path / "model", intermediate=1024)
    file = tmp_path / "carried_away.yaml"
    devices = (f"{{name: {name}, memory_gib: 0.0028, slowdown: {slow}}}" for name, slow in zip("abc", (1, 4, 4)))
    file.write_text(
        f"name: carried away\nmodel: {model}\n"
        f"devices: [{', '.join(devices)}]\n"
        "links: [{from: all, to: all, mbit_per_s: 50, latency_ms: 20}]\n"
        "conversations: [{prompt: once, tokens: 160}]\n"
        "events: [t=2 slow a<>b 10x, t=2 slow a<>c 10x]\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "testbed", str(file)],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "SHARDNET_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    _, after = ended.stdout.split("slow a<>c 10x", 1)
    assert "from a to" in after, "its links alone speak for that: it is the fastest"
    assert "The text is the undisturbed one, token for token." in after
