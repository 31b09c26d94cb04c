"""A host hears of changes of its own network as they come. Needs root: the host is a network namespace.

IPv6 is left out: the kernel gives link-local addresses in its own time.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from namespaces import Namespaces, why_not

TELLING = """
import asyncio, json
from shardnet.gate import network

if {is_told} is False:
    network._news = lambda: None
    network.LOOK_S = 0.02

async def main():
    here = network.Network()
    def tell():
        addresses = sorted(each for each in here.addresses if ":" not in each)
        print(json.dumps([addresses, here.is_cut_off]), flush=True)
    here.on_change.append(tell)
    tell()
    await asyncio.Event().wait()

asyncio.run(main())
"""


def sees(process: subprocess.Popen[str], addresses: list[str], *, is_cut_off: bool) -> None:
    """Until it says so."""
    assert process.stdout is not None
    while json.loads(process.stdout.readline()) != [addresses, is_cut_off]:
        pass


@pytest.mark.root
@pytest.mark.parametrize("is_told", [True, False])
def test_a_host_sees_that_it_is_cut_off_and_that_it_has_another_address(is_told: bool) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with Namespaces(["phone"]) as hosts:
        program = TELLING.format(is_told=is_told)
        command = hosts.command("phone", sys.executable, "-c", program)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            sees(process, ["10.78.0.1"], is_cut_off=False)
            hosts.unplug("phone")
            sees(process, [], is_cut_off=True)
            hosts.move("phone", "10.78.0.99")
            hosts.plug_in_again("phone")
            sees(process, ["10.78.0.99"], is_cut_off=False)
            process.kill()
