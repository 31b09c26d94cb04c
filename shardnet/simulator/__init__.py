"""A predicted run of a plan: discrete events over devices and links. Pure: no torch, no clock, no network.

Everything that comes out of here is predicted, never measured.
"""

from shardnet.simulator.events import Event, parse_event, read_events
from shardnet.simulator.load import Load, Recovery
from shardnet.simulator.rates import simulated_rate
from shardnet.simulator.result import Result
from shardnet.simulator.run import simulate

__all__ = ["Event", "Load", "Recovery", "Result", "parse_event", "read_events", "simulate", "simulated_rate"]
