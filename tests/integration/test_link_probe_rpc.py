"""Links measured between real processes, through the transport that a run uses."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from warm_python import WARM_PYTHON

from shardnet.transport import serve_door

PROGRAM = """
import json, sys
from shardnet.profiling.link_probe import expose_probe, measure_links
from shardnet.transport import RpcTransport

endpoint, name = sys.argv[1:]
with RpcTransport.join(endpoint, name) as transport:
    expose_probe(transport)
    print(name, flush=True)
    for line in sys.stdin:
        links = measure_links(transport, json.loads(line), hidden_bytes=1152, max_seconds_per_link=1.0)
        print(json.dumps([link.as_dict() for link in links]), flush=True)
"""


@pytest.mark.usefixtures("warm_python")
def test_links_between_processes() -> None:
    door = serve_door()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    devices = [
        subprocess.Popen(
            [*WARM_PYTHON, "-c", PROGRAM, door.endpoint, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in ("a", "b", "c")
    ]
    try:
        for device in devices:
            assert device.stdout is not None
            assert device.stdout.readline().strip() in ("a", "b", "c")
        first = devices[0]
        assert first.stdin is not None and first.stdout is not None
        first.stdin.write('["a", "b", "c"]\n')
        first.stdin.flush()
        links = json.loads(first.stdout.readline())
    finally:
        for device in devices:
            device.communicate()  # closes its standard input, which ends it
        door.close()
    assert [(link["source"], link["target"]) for link in links] == [("a", "b"), ("a", "c"), ("b", "c")]
    for link in links:
        assert 1e-5 < link["latency_s"] < 0.2
        assert 1e-5 < link["hop_s"] <= link["decode_s"] < 0.3
        assert link["to_bytes_per_s"] > 1e6 and link["from_bytes_per_s"] > 1e6
    assert [device.returncode for device in devices] == [0, 0, 0]
