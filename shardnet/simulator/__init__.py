"""A predicted run of a plan: discrete events over devices and links. Pure: no torch, no clock, no network.

Everything that comes out of here is predicted, never measured.
"""

from shardnet.simulator.churn import Churn
from shardnet.simulator.events import Event, absent_at_start, parse_event, read_events
from shardnet.simulator.load import Load, Recovery
from shardnet.simulator.rates import simulated_rate
from shardnet.simulator.repairs import Repairs
from shardnet.simulator.result import Result
from shardnet.simulator.run import simulate
from shardnet.simulator.script import Script, read_script

__all__ = [
    "Churn",
    "Event",
    "Load",
    "Recovery",
    "Repairs",
    "Result",
    "Script",
    "absent_at_start",
    "parse_event",
    "read_events",
    "read_script",
    "simulate",
    "simulated_rate",
]
