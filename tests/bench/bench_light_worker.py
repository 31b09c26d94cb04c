"""What a device takes before it holds anything: memory at rest, and how soon it is ready.

    python tests/bench/bench_light_worker.py [--venv] [--starts N] [--json FILE]

Two devices, each a process of its own that joins a door on this machine: as it comes, and with what stock blocks need
imported besides, as all devices had it before. With --venv a third one, in an environment that is built for it: this
repository's wheel and nothing but torch, numpy, psutil, cryptography and what these and the commands need that is pure
Python, by `pip install --no-deps`; it also holds a part of the embedded model (of a tiny one where that is not
installed), and must give the tokens of an ordinary device. Of each environment also the gate, the process beside a
device that carries between hosts, linked with a coordinator's. Bars (issue 10): at most 235 MB at rest, and 40 MB for
the gate; ready within 3 s. Seconds are the best of several starts; trust them on an idle machine alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from packaging.requirements import Requirement

from shardnet.cluster.local_workers import worker_environment
from shardnet.coordinator import own_gate
from shardnet.coordinator.own_gate import Listening
from shardnet.errors import ModelNotFound
from shardnet.gate.asking import enrol
from shardnet.loader import open_model
from shardnet.loader.sources import EMBEDDED_NAME, find_embedded
from shardnet.process.light_set import COMPILED, PURE, TORCH_NEEDS
from shardnet.process.state_folder import StateFolder
from shardnet.source.trust import ask_gate
from shardnet.transport import RpcTransport, serve_door
from shardnet.trust.payload import parse_payload

ROOT = Path(__file__).parents[2]
SETTLE_S = 1.0
"""After it is ready: threads that start with it have taken their stacks by then."""
READY_S = 120.0
AS_IT_COMES = "from shardnet.device.process import main"
WITH_STOCK_BLOCKS = (
    "import transformers.modeling_layers, transformers.generation.utils; from transformers import LlamaConfig; "
    "from shardnet.models import build_skeleton; build_skeleton(LlamaConfig(num_hidden_layers=1), 0, 2); " + AS_IT_COMES
)


class Start(NamedTuple):
    """One start of one device."""

    ready_s: float
    """Until others see it in the cluster."""
    processor_s: float
    """Of all its threads, until then."""
    rest_bytes: int


@contextmanager
def device(python: str, program: str, endpoint: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [python, "-c", f"import sys; {program}; sys.exit(main())", "--endpoint", endpoint, "--name", name]
    process = subprocess.Popen(command, env=worker_environment(os.environ, 1), cwd=tempfile.gettempdir())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def start(python: str, program: str) -> Start:
    """Start a device, wait until it is ready and at rest, and end it."""
    with closing(serve_door("127.0.0.1")) as door, RpcTransport.join(door.endpoint, "coordinator") as here:
        began_s = time.perf_counter()
        with device(python, program, door.endpoint, "device") as process:
            while "device" not in here.members():
                if process.poll() is not None or time.perf_counter() > began_s + READY_S:
                    raise SystemExit("the device did not come up")
                time.sleep(0.01)
            ready_s, there = time.perf_counter() - began_s, psutil.Process(process.pid)
            processor_s = sum(there.cpu_times()[:2])
            here.call("device", "describe", timeout_s=10).result()
            time.sleep(SETTLE_S)
            return Start(ready_s, processor_s, there.memory_info().rss)


def gate_rest_bytes(python: str, folder: Path) -> int:
    """What the gate of a host takes at rest that has joined a cluster."""
    hub, host = folder / "hub", folder / "host"
    state = StateFolder(hub)
    with own_gate.start_or_find(state, Listening(("127.0.0.1:0",))):
        invitation = parse_payload(ask_gate(hub, "invite")["qr"])
        enrol(host, invitation, "device", invitation.addresses)
        own_gate.GATE_COMMAND, usual = (python, *own_gate.GATE_COMMAND[1:]), own_gate.GATE_COMMAND
        try:
            with own_gate.start(host) as gate:
                while not any(each["is_linked"] for each in ask_gate(hub, "trusted")):
                    time.sleep(0.01)
                time.sleep(SETTLE_S)
                assert gate.child is not None
                return int(psutil.Process(gate.child.pid).memory_info().rss)
        finally:
            own_gate.GATE_COMMAND = usual


def light_python(folder: Path) -> str:
    """A Python with the light set and nothing else. torch is the one of this environment's version."""
    python, pip = folder / "bin" / "python", [str(folder / "bin" / "python"), "-m", "pip"]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    run([sys.executable, "-m", "venv", str(folder)])
    sys.path.insert(0, str(ROOT / "tests"))
    from own_wheel import build_wheel

    wheel = build_wheel(folder)
    wanted = [Requirement(each).name for each in (*COMPILED, *PURE, *TORCH_NEEDS)]
    here = json.loads(
        subprocess.run(
            [sys.executable, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True
        ).stdout
    )
    names = {name.lower().replace("_", "-") for name in wanted}
    pinned = [f"{each['name']}=={each['version']}" for each in here if each["name"].lower().replace("_", "-") in names]
    run([*pip, "install", *quiet, *pinned, str(wheel)])
    return str(python)


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, cwd=tempfile.gettempdir())


def best(starts: list[Start]) -> dict[str, Any]:
    return {
        "ready_s": round(min(each.ready_s for each in starts), 2),
        "processor_s": round(min(each.processor_s for each in starts), 2),
        "rest_mib": round(max(each.rest_bytes for each in starts) / 2**20, 1),
        "rest_mb": round(max(each.rest_bytes for each in starts) / 1e6, 1),
        "starts": len(starts),
    }


def tokens_are_exact(python: str, folder: Path) -> bool:
    """Whether a ring of such a device and an ordinary one, and such a device alone, give what an ordinary one gives."""
    import shardnet

    model = model_to_try(folder)
    num_units = open_model(model, "float32").profile.num_units
    answers = []
    with (
        closing(serve_door("127.0.0.1")) as door,
        device(python, AS_IT_COMES, door.endpoint, "light"),
        device(sys.executable, AS_IT_COMES, door.endpoint, "ordinary"),
        shardnet.Cluster.connect(door.endpoint, num_devices=2) as cluster,
    ):
        for light in (0, num_units // 2, num_units):
            split = [light if name == "light" else num_units - light for name in cluster.devices]
            with cluster.load(model, dtype="float32", split=split) as loaded:
                answers.append(
                    loaded.generate([[5, 9, 40, 7]], max_new_tokens=32, temperature=0.8, seed=1)[0].token_ids
                )
    return answers[0] == answers[1] == answers[2]


def model_to_try(folder: Path) -> str:
    """The embedded model, or a tiny one where it is not installed."""
    try:
        find_embedded()
    except ModelNotFound:
        from tiny_text_model import save_text_model

        return str(save_text_model(folder / "model"))
    return EMBEDDED_NAME


def main() -> None:
    """Print both, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", action="store_true", help="also in an environment with nothing but the light set")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        kinds = {
            "as it comes": (sys.executable, AS_IT_COMES),
            "with transformers imported": (sys.executable, WITH_STOCK_BLOCKS),
        }
        if asked.venv:
            kinds["light set alone"] = (light_python(Path(folder) / "venv"), AS_IT_COMES)
        for kind, (python, program) in kinds.items():
            results[kind] = best([start(python, program) for _ in range(asked.starts)])
            print(f"{kind:28} {results[kind]}", flush=True)
        for kind, python in {
            kind: python for kind, (python, program) in kinds.items() if program == AS_IT_COMES
        }.items():
            rest_bytes = gate_rest_bytes(python, Path(folder) / f"gate, {kind}")
            gate = {"rest_mib": round(rest_bytes / 2**20, 1), "rest_mb": round(rest_bytes / 1e6, 1)}
            results[f"gate, {kind}"] = gate
            print(f"{'gate, ' + kind:28} {gate}", flush=True)
        if asked.venv:
            results["exact"] = tokens_are_exact(kinds["light set alone"][0], Path(folder))
            print(f"tokens exact: {results['exact']}")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1))
    if not results.get("exact", True):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
