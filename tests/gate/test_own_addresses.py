"""Which of a host's addresses a person is told to type on another one."""

from __future__ import annotations

import ipaddress
import socket

import psutil
import pytest

from shardnet.gate import own_addresses as own_addresses_module
from shardnet.gate.own_addresses import Own, in_order, is_own, own_addresses

LOOPBACK = Own("lo", "127.0.0.1")
DOCKER = [Own("docker0", "172.17.0.1"), Own("br-0123456789ab", "172.18.0.1"), Own("virbr0", "192.168.122.1")]
WIFI = Own("wlan0", "192.168.1.5")
CABLE = Own("eth0", "10.0.0.7")
TUNNEL = Own("tailscale0", "100.64.0.3")
ALONE = Own("eth0", "169.254.7.7")


def test_first_is_that_of_the_default_route_and_those_of_containers_are_none() -> None:
    found = [LOOPBACK, *DOCKER, CABLE, WIFI, Own("br-lan", "192.168.7.1")]
    assert in_order(found, WIFI.address) == [WIFI.address, CABLE.address, "192.168.7.1"]


def test_a_private_network_comes_after_the_one_that_a_phone_is_in() -> None:
    assert in_order([TUNNEL, WIFI], TUNNEL.address) == [WIFI.address, TUNNEL.address]


def test_two_machines_on_one_cable_without_a_router_have_an_address_too() -> None:
    assert in_order([LOOPBACK, ALONE], None) == [ALONE.address]
    assert in_order([LOOPBACK, ALONE, WIFI], None) == [WIFI.address]


def test_a_machine_in_no_network_has_its_loopback() -> None:
    assert in_order([LOOPBACK], None) == [LOOPBACK.address]
    assert in_order([], None) == []


def test_this_host_has_addresses() -> None:
    assert all(ipaddress.ip_address(each).version == 4 for each in own_addresses(socket.AF_INET))
    assert own_addresses(socket.AF_INET)


def test_where_no_program_may_list_interfaces_there_is_an_address_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Android forbids it: there the gate ended."""

    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "/proc/net/dev")

    monkeypatch.setattr(psutil, "net_if_stats", refuse)
    monkeypatch.setattr(own_addresses_module, "of_default_route", lambda family: "192.168.1.5")
    assert own_addresses(socket.AF_INET) == ["192.168.1.5"]
    monkeypatch.setattr(own_addresses_module, "of_default_route", lambda family: None)
    assert own_addresses(socket.AF_INET) == []


def test_which_addresses_are_this_hosts() -> None:
    assert is_own("localhost") and is_own("127.0.0.1") and is_own("127.9.9.9") and is_own("::1")
    assert all(map(is_own, own_addresses(socket.AF_INET)))
    assert not is_own("192.0.2.77") and not is_own("laptop")
