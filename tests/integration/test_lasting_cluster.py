"""A cluster that outlives commands, as a user has it: real processes, one command after the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import is_over, wait_until
from tiny_text_model import save_text_model
from warm_python import WARM_PYTHON

from shardnet.process.identity import has_ended, number_of
from shardnet.source.glance import glance

COMMAND = [*WARM_PYTHON, "-m", "shardnet.launch.cli"]
ASKED = ("--prompt", "Hello", "--max-new-tokens", 12)
LOOKS_OFTEN = """
from shardnet.device import pausing
from shardnet.launch.cli import main

pausing.READ_EVERY_S, pausing.LOOK_EVERY_S, pausing.AGAIN_S = 0.1, 0.1, 0.5
main()
"""
"""The command `shardnet`, whose device reads its battery more often."""
LONG = ("--prompt", "Hello", "--max-new-tokens", 4000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, warm_python: None) -> dict[str, str]:
    home = tmp_path_factory.mktemp("home")
    own = {"XDG_STATE_HOME": str(home), "SHARDNET_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own}


class Running:
    """A command that runs until it is told to end, and what it has printed."""

    def __init__(
        self, environment: dict[str, str], *arguments: object, command: Sequence[str] = tuple(COMMAND)
    ) -> None:
        self.lines: list[str] = []
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [*command, *map(str, arguments)]
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    def events(self, kind: str) -> list[dict[str, Any]]:
        told = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [event for event in told if event.get("event") == kind]

    def wait_for(self, kind: str, count: int = 1) -> dict[str, Any]:
        wait_until(lambda: len(self.events(kind)) >= count or self._process.poll() is not None)
        assert len(self.events(kind)) >= count, self.end()
        return self.events(kind)[count - 1]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self, number: int | None = None) -> tuple[int, str]:
        """Its exit code, and what it has printed to standard error."""
        if number is not None:
            self.signal(number)
        try:
            code = self._process.wait(30)
        finally:
            self._process.kill()
        self._reader.join(10)
        self._errors.seek(0)
        return code, self._errors.read()


class Commands:
    """Runs commands with a state folder of their own, and ends those that were left running."""

    def __init__(self, environment: dict[str, str], folder: Path, model: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.model = model
        self.running: list[Running] = []

    def start(self, *arguments: object) -> Running:
        running = Running(self.environment, *arguments)
        self.running.append(running)
        return running

    def up(self, *arguments: object) -> Running:
        return self.start(
            *("up", "--state", self.folder, "--model", self.model, "--dtype", "float32", "--threads", 1),
            *("--name", "one", "--json", "--listen", "none", *arguments),
        )

    def join(self, name: str, *options: object, elsewhere: Path | None = None) -> Running:
        """Args: `elsewhere`, a folder for a device that shares none with the others."""
        own = {} if elsewhere is None else {"SHARDNET_CACHE": str(elsewhere / "cache"), "TMPDIR": str(elsewhere)}
        command = ("join", "--cluster", self.folder, "--threads", 1, "--name", name, "--json", *options)
        running = Running(self.environment | own, *command)
        self.running.append(running)
        return running

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)

    def ask(self, command: str, *arguments: object) -> str:
        done = self.run(command, *arguments, "--cluster", self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def answer(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.ask("generate", *ASKED, "--json"))
        return told

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.ask("status", "--json"))
        return told


@pytest.fixture
def commands(environment: dict[str, str], model: Path, tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(environment, tmp_path / "state", model)
    yield commands
    for running in commands.running:
        running.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def expected(environment: dict[str, str], model: Path) -> list[int]:
    command = [*COMMAND, "generate", "--model", model, *ASKED, "--dtype", "float32", "--devices", 1, "--json"]
    told = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=True)
    ids: list[int] = json.loads(told.stdout)["token_ids"]
    return ids


def test_a_cluster_from_its_start_to_its_end(commands: Commands, model: Path, expected: list[int]) -> None:
    up = commands.up()
    up.wait_for("loaded")
    assert json.loads(up.lines[0]) == {"address": f"unix:{commands.folder}/door", "state": str(commands.folder)}
    assert commands.folder.stat().st_mode & 0o777 == 0o700
    told = commands.answer()
    assert told["token_ids"] == expected
    assert [stage["device"] for stage in told["stages"]] == ["one"]
    assert told["model"] == model.name and told["dtype"] == "float32" and told["plan_version"] == 1

    two = commands.join("two")
    two.wait_for("joined")
    up.wait_for("joined", 2)
    assert [member["units"] for member in commands.status()["members"]] == [[[0, 5]], []]
    commands.ask("load", model, "--dtype", "float32", "--placement", "spread")
    told = commands.answer()
    assert told["token_ids"] == expected
    assert [stage["device"] for stage in told["stages"]] == ["one", "two"]
    assert two.wait_for("holds")["text"] == f"two holds units {told['stages'][1]['first_unit']}-5."
    found = commands.status()
    assert [member["name"] for member in found["members"] if member["state"] == "present"] == ["one", "two"]
    assert found["plan_version"] == 2 and found["sessions"] == []
    assert "two" in commands.ask("status")

    last = f"units {told['stages'][1]['first_unit']}-5"
    assert commands.ask("leave", "two") == f"two leaves: {last} went to one.\n"
    assert two.end() == (0, "")
    assert up.wait_for("left")["device"] == "two"
    assert " went to one, after " in up.wait_for("moved")["text"]
    assert commands.answer()["token_ids"] == expected
    assert commands.ask("unload") == f"{model.name} is unloaded.\n"

    processes = psutil.Process(up._process.pid).children(recursive=True)
    assert up.end(signal.SIGINT) == (0, "")
    wait_until(lambda: all(is_over(each.pid) for each in processes), 10)
    assert not (commands.folder / "door").exists()
    done = commands.run("status", "--cluster", commands.folder)
    assert done.returncode == 1
    start = f"shardnet up --model MODEL --state {commands.folder}"
    assert done.stderr == f"shardnet: No cluster runs in {commands.folder}. Start one: {start}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_device_that_is_told_to_end_leaves_in_order(
    commands: Commands, expected: list[int], number: signal.Signals
) -> None:
    up = commands.up()
    wait_until(lambda: up.lines)
    two = commands.join("two")
    two.wait_for("joined")
    up.wait_for("loaded")
    as_is = ("--standby", "cold", "--standby-gib", 0.5, "--no-rebalance")
    commands.ask("load", commands.model, "--dtype", "float32", "--placement", "spread", *as_is)
    calm = json.loads(commands.ask("generate", *LONG[:2], "--max-new-tokens", 900, "--json"))["token_ids"]
    asking = commands.start("generate", *LONG[:2], "--max-new-tokens", 900, "--cluster", commands.folder, "--json")
    up.wait_for("session began", 2)
    assert two.end(number) == (0, "")
    told = [event["event"] for event in map(json.loads, two.lines)]
    assert told == ["joined", "holds", "leaving", "drained", "left"]
    assert " went to one, after " in two.events("drained")[0]["text"]
    assert asking.end() == (0, "")
    assert json.loads(asking.lines[-1])["token_ids"] == calm
    up.wait_for("left")
    assert [up.events(kind) for kind in ("taken over", "recovered", "lost")] == [[], [], []]
    assert commands.answer()["token_ids"] == expected


def test_a_device_whose_battery_gets_low_pauses_until_it_is_charged(
    commands: Commands, expected: list[int], tmp_path: Path
) -> None:
    """A phone that is not charged: what it holds goes to others, and it stays."""
    told = tmp_path / "battery"

    def battery(percent: int, status: str) -> None:
        (tmp_path / "new").write_text(json.dumps({"percentage": percent, "status": status, "temperature": 31.5}))
        (tmp_path / "new").replace(told)

    battery(80, "DISCHARGING")
    program = tmp_path / "termux-battery-status"
    program.write_text(f"#!/bin/sh\ncat {told}\n")
    program.chmod(0o755)
    locks = tmp_path / "locks"
    for name in ("termux-wake-lock", "termux-wake-unlock"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >>{locks}\n")
        (tmp_path / name).chmod(0o755)
    up = commands.up()
    wait_until(lambda: up.lines)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    two = Running(
        {**commands.environment, "PATH": path},
        *("join", "--cluster", commands.folder, "--threads", 1, "--name", "two", "--json", "--min-battery", 15),
        command=[*WARM_PYTHON, "-c", LOOKS_OFTEN],
    )
    commands.running.append(two)
    two.wait_for("joined")
    up.wait_for("loaded")
    commands.ask("load", commands.model, "--dtype", "float32", "--placement", "spread")
    two.wait_for("holds")
    battery(8, "DISCHARGING")
    assert two.wait_for("paused")["text"] == (
        "two pauses: its battery is at 8%. It stays in the cluster, and holds nothing until that is over."
    )
    assert " went to one, after " in two.wait_for("handed over")["text"]
    assert up.wait_for("paused")["device"] == "two"
    [_, paused] = json.loads(commands.ask("status", "--json"))["members"]
    assert (paused["name"], paused["state"], paused["why"]) == ("two", "paused", "its battery is at 8%")
    assert (paused["battery_percent"], paused["is_charging"], paused["temperature_c"]) == (8.0, False, 31.5)
    assert "two pauses: its battery is at 8%." in commands.ask("status")
    assert commands.answer()["token_ids"] == expected
    battery(9, "CHARGING")
    two.wait_for("unpaused")
    up.wait_for("unpaused")
    commands.ask("load", commands.model, "--dtype", "float32", "--placement", "spread")
    wait_until(lambda: two.events("holds")[-1]["text"] != "two holds nothing any more.")
    assert locks.read_text().split() == ["termux-wake-lock"]
    assert two.end(signal.SIGINT) == (0, "")
    assert locks.read_text().split() == ["termux-wake-lock", "termux-wake-unlock"]
    assert up.events("lost") == []
    assert commands.answer()["token_ids"] == expected


def test_a_device_that_nobody_can_take_over_from_says_so_and_ends(commands: Commands) -> None:
    up = commands.up("--no-device")
    wait_until(lambda: up.lines)
    two = commands.join("two")
    up.wait_for("loaded")
    two.wait_for("holds")
    assert two.end(signal.SIGINT) == (0, "")
    assert two.events("not drained")[0]["text"] == "two ends all the same: nobody else can hold units 0-5."
    assert two.events("left")
    assert up.wait_for("left")["device"] == "two"


def test_a_second_signal_ends_a_device_at_once(commands: Commands) -> None:
    """The one that would take over is stopped, so that it would take long."""
    up = commands.up()
    wait_until(lambda: up.lines)
    two = commands.join("two")
    two.wait_for("joined")
    up.wait_for("loaded")
    commands.ask("load", commands.model, "--dtype", "float32", "--placement", "spread")
    two.wait_for("holds")
    own = number_of(own_device_of(commands.folder))
    assert own is not None
    os.kill(own, signal.SIGSTOP)
    try:
        two.signal(signal.SIGINT)
        two.wait_for("leaving")
        assert two.end(signal.SIGINT) == (1, "")
        assert "before others have taken over units" in two.events("cut short")[0]["text"]
    finally:
        os.kill(own, signal.SIGKILL)


def is_device(command: list[str] | None, name: str, folder: Path) -> bool:
    return command is not None and {"shardnet.device.process", name, f"unix:{folder}/door"} <= set(command)


def test_devices_that_end_otherwise(commands: Commands, expected: list[int]) -> None:
    up = commands.up()
    wait_until(lambda: up.lines)
    two, three = commands.join("two"), commands.join("three")
    for device in (two, three):
        device.wait_for("joined")
    up.wait_for("loaded")
    assert two.end(signal.SIGINT) == (0, "")
    assert [event["event"] for event in map(json.loads, two.lines)] == ["joined", "left"]
    assert up.wait_for("left")["device"] == "two"
    three.end(signal.SIGKILL)
    assert up.wait_for("lost")["text"] == "three is lost: its process has ended, or its connection broke."
    taken = commands.join("one")
    assert taken.end() == (1, "shardnet: A device called one is in the cluster already. Choose another name.\n")

    [own] = [
        each for each in psutil.process_iter(["cmdline"]) if is_device(each.info["cmdline"], "one", commands.folder)
    ]
    own.kill()
    assert up.wait_for("lost", 2)["text"] == "one is lost: its process was killed by SIGKILL."
    asked = commands.run("generate", *ASKED, "--cluster", commands.folder)
    assert asked.returncode in (1, 3) and asked.stderr.count("\n") == 2, asked.stderr
    four = commands.join("four")
    four.wait_for("joined")
    up.wait_for("loaded", 2)
    assert commands.answer()["token_ids"] == expected
    assert up.end(signal.SIGTERM) == (0, "")


def test_what_cannot_be_done_is_one_sentence(commands: Commands, model: Path, tmp_path: Path) -> None:
    up = commands.up("--no-device")
    wait_until(lambda: up.lines)
    (tmp_path / "open").mkdir(mode=0o755)
    for arguments, code, sentence in (
        (("up", "--model", model, "--state", commands.folder), 2, f"A cluster runs in {commands.folder} already"),
        (("up", "--model", model, "--state", ""), 2, "--state must name a folder"),
        (("up", "--model", model, "--state", tmp_path / "open"), 2, "must belong to this user and be closed to all"),
        (("up", "--model", tmp_path / "none", "--state", tmp_path / "new"), 2, f"There is no {tmp_path}/none"),
        (("up", "--model", "no/such/thing", "--state", tmp_path / "new"), 2, "There is no no/such/thing"),
        (("join", "--cluster", tmp_path / "nowhere"), 1, "No cluster runs in"),
        (("join", "--cluster", commands.folder, "--name", "@me"), 2, "--name must be"),
        (("join", "--cluster", "127.0.0.1:29500"), 2, "is the state folder of a cluster"),
        (("generate", *ASKED), 2, "There is no --model."),
        (("generate", *ASKED, "--cluster", tmp_path / "nowhere"), 1, "No cluster runs in"),
        (("generate", *ASKED, "--cluster", commands.folder, "--dtype", "float16"), 2, "--dtype is for loading a model"),
        (("generate", *ASKED, "--cluster", commands.folder), 3, "needs a device, and none is there"),
        (("load", tmp_path / "none", "--cluster", commands.folder), 2, f"There is no {tmp_path}/none"),
        (("leave", "--cluster", commands.folder), 2, "no device has joined"),
        (("remove", "two", "--cluster", commands.folder), 2, "no device of this cluster is called 'two'"),
    ):
        done = commands.run(*arguments)
        assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr
        assert done.stderr.startswith("shardnet: ") or "loading PyTorch: done\nshardnet: " in done.stderr
        assert "Traceback" not in done.stderr and done.stdout == ""
    assert "No model is loaded." in commands.ask("status")
    assert up.end(signal.SIGINT) == (0, "")


def test_the_end_of_the_coordinator_is_one_sentence_for_who_asks(commands: Commands) -> None:
    up = commands.up()
    up.wait_for("loaded")
    asking = commands.start("generate", *LONG, "--cluster", commands.folder)
    up.wait_for("session began")
    up.end(signal.SIGTERM)
    code, errors = asking.end()
    assert code == 1
    assert errors.splitlines()[-1].startswith("shardnet: the cluster was ended")


def test_a_script_is_a_source(commands: Commands, expected: list[int]) -> None:
    up = commands.up()
    up.wait_for("loaded")
    script = f"""if True:
        import shardnet
        with shardnet.Cluster.connect({str(commands.folder)!r}, num_devices=1) as cluster:
            print(cluster.devices)
            stream = cluster.model.stream("Hello", max_new_tokens=12)
            print(len("".join(stream)) > 0, stream.result.token_ids)
        with shardnet.Cluster.connect("unix:{commands.folder}/door") as cluster:
            print(cluster.model.plan.devices)
    """
    done = subprocess.run(
        [*WARM_PYTHON, "-c", script], env=commands.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == f"('one',)\nTrue {expected}\n('one',)\n", done.stderr


def test_a_device_elsewhere_fetches_what_it_is_to_hold(
    commands: Commands, model: Path, expected: list[int], tmp_path: Path
) -> None:
    """Nothing of the model was ever copied to it by hand."""
    up = commands.up("--no-device")
    wait_until(lambda: up.lines)
    (tmp_path / "elsewhere").mkdir()
    two = commands.join("two", "--fetch-mbit-per-s", 200, "--cache-gib", 0.5, elsewhere=tmp_path / "elsewhere")
    two.wait_for("joined")
    up.wait_for("loaded")
    assert two.wait_for("fetched")["text"].startswith("two has fetched units 0-5: 0.7 MB from coordinator in ")
    assert up.wait_for("fetched")["device"] == "two"
    assert commands.answer()["token_ids"] == expected
    commands.ask("unload")
    commands.ask("load", model, "--dtype", "float32")
    assert commands.answer()["token_ids"] == expected
    assert len(up.events("fetched")) == 1, "it is kept"


def test_a_coordinator_that_is_started_again_goes_on_where_it_was(commands: Commands, expected: list[int]) -> None:
    """Its devices keep what they have loaded, and the answers of two sources come whole, one of them sampled."""
    up = commands.up("--placement", "spread")
    wait_until(lambda: up.lines)
    two = commands.join("two")
    two.wait_for("joined")
    up.wait_for("loaded")
    commands.ask("load", commands.model, "--dtype", "float32", "--placement", "spread")
    sampled = (*LONG[:2], "--max-new-tokens", 900, "--temperature", 0.9, "--repetition-penalty", 1.3, "--seed", 5)
    calm = json.loads(commands.ask("generate", *sampled, "--json"))
    own = own_device_of(commands.folder)
    asking = [
        commands.start("generate", *what, "--cluster", commands.folder, "--json")
        for what in (sampled, (*LONG[:2], "--max-new-tokens", 900))
    ]
    up.wait_for("session began", 3)
    assert up.end(signal.SIGKILL)[0] == -signal.SIGKILL

    again = commands.up("--placement", "spread")
    resumed = again.wait_for("resumed")["text"]
    assert "units 0-" in resumed and "on two" in resumed and "had to be loaded" not in resumed
    assert again.events("loading") == []
    assert [event["device"] for event in again.events("joined")] == ["one", "two"]
    assert two.wait_for("back")["device"] == "two"
    assert own_device_of(commands.folder) == own and not has_ended(own)
    for each in asking:
        assert each.end() == (0, ""), "both answers come whole"
    told, greedy = (json.loads(each.lines[-1]) for each in asking)
    assert told["token_ids"] == calm["token_ids"]
    assert greedy["token_ids"][: len(expected)] == expected and len(greedy["token_ids"]) == 900
    assert commands.answer()["token_ids"] == expected
    assert again.end(signal.SIGINT) == (0, "")
    wait_until(lambda: has_ended(own), 10)


def test_tokens_are_guessed_while_a_coordinator_is_killed(commands: Commands) -> None:
    """Of weights of few bits: the answers are those of one device without guesses."""
    few_bits = ("--dtype", "float32", "--weights", "int4")
    asked = ("generate", "--prompt", "one two three one two three one", "--max-new-tokens", 250, "--json")
    sampled = (*asked, "--temperature", 0.9, "--seed", 5)
    alone = [commands.run(*each, "--model", commands.model, *few_bits, "--devices", 1) for each in (asked, sampled)]
    up = commands.up(*few_bits[2:], "--placement", "spread")
    wait_until(lambda: up.lines)
    commands.join("two").wait_for("joined")
    up.wait_for("loaded")
    commands.ask("load", commands.model, *few_bits, "--placement", "spread")
    guessing = ("--speculate", "lookup", "--cluster", commands.folder)
    asking = [commands.start(*each, *guessing) for each in (asked, sampled)]
    up.wait_for("session began", 2)
    assert up.end(signal.SIGKILL)[0] == -signal.SIGKILL
    again = commands.up(*few_bits[2:], "--placement", "spread")
    assert "had to be loaded" not in again.wait_for("resumed")["text"]
    for each, undisturbed in zip(asking, alone, strict=True):
        assert each.end() == (0, ""), "both answers come whole"
        assert json.loads(each.lines[-1])["token_ids"] == json.loads(undisturbed.stdout)["token_ids"]
    assert again.end(signal.SIGINT) == (0, "")


def test_answers_that_broke_off_are_resumed(commands: Commands) -> None:
    """Nobody can take over from the device that is killed, and later the cluster is ended, each in mid-answer."""
    long = (*LONG[:2], "--max-new-tokens", 2500, "--seed", 5)

    def num_tokens() -> int:
        return max((each["num_tokens"] for each in glance(commands.folder)["sessions"]), default=0)

    up = commands.up("--no-device")
    wait_until(lambda: up.lines)
    two = commands.join("two")
    up.wait_for("loaded")
    calm = json.loads(commands.ask("generate", *long, "--json"))
    asking = commands.start("generate", *long, "--cluster", commands.folder)
    wait_until(lambda: num_tokens() > 20)
    two.end(signal.SIGKILL)
    code, errors = asking.end()
    told = errors.splitlines()[-1]
    assert code == 1 and told.startswith("shardnet: two is lost"), errors
    assert told.endswith(f"Let the answer go on then: shardnet resume 1 --cluster {commands.folder}")
    [broken] = commands.status()["broken_off"]
    assert (broken["number"], broken["max_new_tokens"], broken["sampling"]["seed"]) == (1, 2500, 5)
    assert 20 < broken["num_tokens"] < 2500
    refused = commands.run("resume", "--cluster", commands.folder)
    assert refused.returncode != 0 and refused.stderr.count("\n") == 1 and "two is lost" in refused.stderr

    three = commands.join("three")
    up.wait_for("loaded", 2)
    shown = commands.ask("status")
    assert f"2500 tokens (5 tokens of prompt): shardnet resume 1 --cluster {commands.folder}" in shown
    resuming = commands.start("resume", 1, "--cluster", commands.folder)
    wait_until(lambda: num_tokens() > broken["num_tokens"])
    assert up.end(signal.SIGINT) == (0, "")
    code, errors = resuming.end()
    assert code == 1 and errors.startswith("shardnet: the cluster was ended") and "shardnet resume 1 " in errors
    three.end(signal.SIGKILL)

    again = commands.up()
    again.wait_for("loaded")
    assert commands.status()["broken_off"][0]["num_tokens"] > broken["num_tokens"]
    told = json.loads(commands.ask("resume", 1, "--json"))
    assert (told["token_ids"], told["text"]) == (calm["token_ids"], calm["text"])
    assert commands.status()["broken_off"] == []
    done = commands.run("forget", 1, "--cluster", commands.folder)
    assert (done.returncode, done.stderr) == (
        2,
        "shardnet: no answer of this cluster broke off, or all are being resumed.\n",
    )
    assert again.end(signal.SIGINT) == (0, "")


def own_device_of(folder: Path) -> str:
    note: dict[str, str] = json.loads((folder / "own_device.json").read_text())
    return note["process"]
