"""Scripts of the test bed: what may stand in them, and what they come to on paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardnet.errors import BadConfiguration
from shardnet.launch.files.config_files import load_data_file
from shardnet.launch.plan.options import PlannerOptions
from shardnet.launch.plan.run import ConfiguredPlanner
from shardnet.launch.plan.scripts import load_script, script_problem, script_run
from shardnet.simulator import Event, Result, Script, parse_event, read_script, simulate
from shardnet.simulator.script import Road

SCRIPTS = sorted((Path(__file__).parents[1] / "testbed/scripts").glob("*.yaml"))
DEVICES = [{"name": name, "units": units} for name, units in (("a", 11), ("b", 11), ("c", 10))]


def script(**changes: Any) -> Script:
    return read_script({"name": "some", "devices": DEVICES, **changes})


def played_on_paper(what: Script, **recovery: Any) -> Result:
    run = script_run(what, script_problem(what), ConfiguredPlanner(PlannerOptions()))
    return simulate(run.asked.problem, run.start, run.load, run.events, replace(run.recovery, **recovery))


def kinds(result: Result) -> list[str]:
    return [each.kind for each in result.happenings]


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("t=5 freeze a", Event(5, "freeze", "a")),
        ("t=5s thaw a", Event(5, "thaw", "a")),
        ("t=0 kill a", Event(0, "kill", "a")),
        ("t=5 cut a>b", Event(5, "cut", "a", "b")),
        ("t=5 mend a<>b", Event(5, "mend", "a", "b", both_ways=True)),
        ("token=40 kill b", Event(None, "kill", "b", token=40)),
        ("token = 40 slow a<>b 2x", Event(None, "slow", "a", "b", 2.0, 40, True)),
    ],
)
def test_events_as_people_write_them(text: str, event: Event) -> None:
    assert parse_event(text) == event
    assert parse_event(f"{event.when} {event}") == event


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"events": ["t=5 kill x"]}, "no device is called 'x'"),
        ({"events": ["t=5 eat a"]}, "kind must be one of slow, freeze, thaw, kill, leave, join, cut, mend"),
        ({"events": ["t=-1 kill a"]}, "at_s must be a number, 0 or more"),
        ({"events": ["token=0 kill a"]}, "token must be a whole number, 1 or more"),
        ({"events": ["token=65 kill a"]}, "the first conversation has 64 tokens"),
        ({"events": ["kill a"]}, "cannot read the event"),
        ({"events": ["t=5 cut a"]}, "say which link to cut, such as a>b"),
        ({"events": ["t=5 freeze a>b"]}, "a link can only slow or cut or mend, not freeze"),
        ({"events": ["t=5 cut a>a"]}, "there is no link from a to a"),
        ({"events": ["t=5 slow a"]}, "does not say how slow"),
        ({"events": ["t=5 kill a 3x"]}, "which only 'slow' may"),
        ({"events": ["t=5 thaw a"]}, "a is there by then, and must be frozen"),
        ({"events": ["t=5 kill a", "t=6 leave a"]}, "a is gone by then, and must be there"),
        ({"events": ["t=5 mend a>b"]}, "a>b is open by then, and must be cut"),
        ({"events": ["t=5 cut a>b", "t=6 cut a<>b"]}, "a>b is cut by then, and must be open"),
        ({"events": [{"at_s": 1, "token": 1, "kind": "kill", "device": "a"}]}, "say either a time .* or a token"),
        ({"events": [{"at_s": "soon", "kind": "kill", "device": "a"}]}, "at_s: must be a number"),
        ({"events": "t=5 kill a"}, "events: must be a list"),
        ({"events": ["t=5 join a"]}, "a has units, but it joins later"),
        ({"devices": []}, "devices is empty"),
        ({"devices": [*DEVICES, {"name": "a", "units": 1}]}, "two devices are called 'a'"),
        ({"devices": [*DEVICES, {"name": "d"}]}, "a has units, but d has none"),
        ({"devices": [{"name": "a", "slowdown": 0.5}]}, "slowdown: must be a number, at least 1"),
        ({"devices": [{"name": "a", "memory": 2}]}, "did you mean 'memory_gib'"),
        ({"devices": [{"name": "all"}]}, "which has a meaning"),
        ({"devices": [{"name": "coordinator"}]}, "which has a meaning"),
        ({"events": ["t=5 kill coordinator"]}, "the coordinator is no device"),
        ({"links": [{"from": "a", "to": "x"}]}, "no device is called 'x'"),
        ({"links": [{"from": "a", "to": "b", "loss": 1.5}]}, "loss: must be a number, at most 0.9"),
        ({"links": [{"from": "a", "to": "b", "mbit_per_s": "fast"}]}, "mbit_per_s: must be a number"),
        ({"conversations": []}, "conversations is empty"),
        ({"conversations": [{"tokens": 0}]}, "tokens: must be a whole number, 1 or more"),
        ({"conversations": [{"prompt": ""}]}, "prompt must not be empty"),
        ({"machine": "abacus"}, "unknown device class 'abacus'"),
        ({"devices": [{"name": "a", "units": 5}]}, "its devices have 5 units, but smollm2-135m-instruct has 32"),
    ],
)
def test_bad_input_gets_one_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadConfiguration, match=sentence) as caught:
        played_on_paper(script(**wrong))
    assert "\n" not in str(caught.value)


def test_an_error_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("name: some\ndevices:\n  - name: a\n  - {name: b}\nevents:\n  - t=5 kill a\n  - kill x\n")
    with pytest.raises(BadConfiguration, match=r"some\.yaml, line 5, events\[1\]: cannot read"):
        load_script(file)


def test_links_replace_each_other_and_those_that_nobody_names_are_fast() -> None:
    links = [{"from": "all", "to": "c", "mbit_per_s": 8}, {"from": "a", "to": ["c"], "latency_ms": 3, "one_way": True}]
    roads = script(links=links).roads
    assert roads["a", "b"] == roads["b", "a"] == Road()
    assert roads["b", "c"] == roads["c", "b"] == roads["c", "a"] == Road(1e6)
    assert roads["a", "c"] == Road(latency_s=0.003)
    assert ("a", "a") not in roads


@pytest.mark.parametrize("file", SCRIPTS, ids=[file.stem for file in SCRIPTS])
def test_every_script_that_comes_with_the_bed_runs_on_paper(file: Path) -> None:
    what = load_script(file)
    result = played_on_paper(what)
    assert result.failed is None
    assert result.num_tokens == len(what.conversations) * what.load.new_tokens
    told = [each.what for each in result.happenings if each.kind == "event"]
    assert told == [str(event) for event in what.paper_events], "the answer is long enough for all of them"
    assert load_data_file(file)["about"]


def test_a_frozen_device_is_suspected_and_comes_back() -> None:
    conversations = [{"tokens": 400}]
    calm = played_on_paper(script(conversations=conversations))
    short = played_on_paper(script(conversations=conversations, events=["t=1 freeze b", "t=2 thaw b"]))
    assert kinds(short) == ["event", "event"]
    assert calm.lap_s is not None
    late_s = short.duration_s - calm.duration_s
    assert 1.0 - calm.lap_s < late_s <= 1.0 + 1e-6, "it goes on where it stopped; others had work left meanwhile"
    long = played_on_paper(script(conversations=conversations, events=["t=1 freeze b", "t=9 thaw b"]))
    assert kinds(long)[:5] == ["event", "suspected", "recovered", "event", "back"]
    assert long.happenings[1].at_s == pytest.approx(3.0)
    assert long.num_tokens == calm.num_tokens == 400


def test_a_frozen_device_that_dies_and_joins_is_a_new_one() -> None:
    events = ["t=1 freeze b", "t=2 kill b", "t=3 join b"]
    result = played_on_paper(script(conversations=[{"tokens": 300}], events=events))
    assert kinds(result)[:5] == ["event", "event", "lost", "recovered", "event"] or kinds(result)[:5] == [
        "event",
        "event",
        "lost",
        "event",
        "recovered",
    ]
    assert result.num_tokens == 300 and result.failed is None


def test_who_says_goodbye_is_missed_by_nobody() -> None:
    calm, gone = played_on_paper(script()), played_on_paper(script(events=["t=0.2 leave b"]))
    assert kinds(gone) == ["event", "drained"] and gone.failed is None
    assert gone.repairs.num_repairs == 0 and 0 < gone.repairs.share < 0.1, "only the last tokens are computed anew"
    longest = max(lap.seconds for lap in gone.laps)
    assert longest < 3 * max(lap.seconds for lap in calm.laps)
    killed = played_on_paper(script(events=["t=0.2 kill b"]), detect_s=0.7)
    assert [each.at_s for each in killed.happenings[:2]] == pytest.approx([0.2, 0.9])
    assert killed.repairs.lost_s["detection"] > 0.5 and killed.repairs.num_delayed == 1


def test_who_is_cut_off_is_replaced_as_by_the_runtime() -> None:
    result = played_on_paper(script(conversations=[{"tokens": 300}], events=["t=1 cut a>b", "t=9 mend a>b"]))
    assert result.failed is None and result.num_tokens == 300
    assert kinds(result) == ["event", "cut off", "recovered", "event"]
    assert result.happenings[1].at_s == pytest.approx(5.0)
    assert ("a", "b") not in zip(result.plans[-1].devices, result.plans[-1].devices[1:], strict=False)


def test_without_a_way_round_a_cut_link_is_waited_for_and_then_ends_the_run() -> None:
    two = [{"name": "a", "units": 16}, {"name": "b", "units": 16}]
    moved = played_on_paper(script(devices=two, events=["t=0.5 cut a>b"]))
    assert moved.failed is None and len(moved.plans) == 2 and moved.num_tokens == 64
    small = [{**device, "memory_gib": 0.4} for device in two]
    stuck = played_on_paper(script(devices=small, events=["t=0.5 cut a>b"]))
    assert stuck.failed is not None and stuck.failed.startswith("what a sends does not reach b. There is no way round")
    assert stuck.duration_s == pytest.approx(120.5)
    waits = played_on_paper(script(devices=small, events=["t=0.5 cut a>b", "t=100 mend a>b"]))
    assert waits.failed is None and waits.num_tokens == 64 and waits.duration_s > 100
    frozen = played_on_paper(script(devices=small, events=["t=0.5 freeze a", "t=20 thaw a"]))
    assert kinds(frozen) == ["event", "suspected", "event", "back"], "nobody else has room: it is waited for"
    assert frozen.repairs.lost_s["waiting"] == pytest.approx(17.5)
    lost = played_on_paper(script(devices=small, events=["t=0.5 freeze a"]))
    assert lost.duration_s == pytest.approx(60.5) and lost.failed is not None and "a is lost" in lost.failed


def test_links_of_the_coordinator_are_not_predicted() -> None:
    calm, cut = script(), script(events=["t=1 cut coordinator<>a", "t=2 mend coordinator<>a"])
    assert len(cut.events) == 2
    assert played_on_paper(cut).to_dict() == played_on_paper(calm).to_dict()


def test_an_event_strikes_at_its_token() -> None:
    events = ["token=20 slow a 3x", "token=1 kill b"]
    result = played_on_paper(script(conversations=[{"tokens": 64}, {"tokens": 64}], events=events))
    came = sorted(
        [each.first_token_s or 0.0 for each in result.requests if each.session == 0]
        + [lap.end_s for lap in result.laps if lap.session == 0]
    )
    at_s = {each.what: each.at_s for each in result.happenings if each.kind == "event"}
    assert at_s == {"kill b": came[0], "slow a 3x": came[19]}
