"""Every error that shardnet raises on purpose, and whose fault it was.

    ShardnetError                     base; `exit_code` is what the command line ends with
    ├── UsageError            (2)     the caller's mistake: what was asked cannot be done as asked
    │   ├── ModelNotFound             no such folder, file or hub id
    │   │   └── ModelNotFetched       the network, the hub or the disk is in the way of one that is on the hub
    │   ├── UnsupportedModel          a family or a file format that shardnet cannot cut
    │   ├── DamagedCheckpoint         truncated, missing tensor, wrong dtype or shape
    │   ├── BadRequest                sampling values, prompt length, number of devices
    │   └── BadConfiguration          a configuration or problem file that says something impossible
    ├── DoesNotFit            (3)     memory: what is needed, what there is, what would make it fit
    ├── KVMemorySpent         (2)     a session's KV cache does not fit beside the others
    └── ClusterError          (1)     a device or the way to it failed
        ├── JoinFailed                a device could not join the cluster
        │   ├── NameTaken             another one has its name
        │   ├── OtherVersion          the cluster runs a version that does not go with this one
        │   └── PortTaken             something on another host has its port
        ├── Evicted                   this device was struck off and must join again
        ├── PlanNotInForce            a device has no such stage: another plan took over, or none was loaded
        ├── DeviceLost                a member died or its connection broke
        └── CallTimeout               a member did not answer in time

A message is one sentence or two: what is wrong, with both numbers where there are two, and what to do.
"""

from __future__ import annotations


class ShardnetError(Exception):
    """Base of every error that shardnet raises on purpose."""

    exit_code = 1


class UsageError(ShardnetError):
    """What was asked cannot be done as asked."""

    exit_code = 2


class ModelNotFound(UsageError):
    """There is no model under that path or name."""


class ModelNotFetched(ModelNotFound):
    """The network, the hub or the disk is in the way of a model that is on the hub."""


class UnsupportedModel(UsageError):
    """The model's family or file format is not one that shardnet can cut."""


class DamagedCheckpoint(UsageError):
    """The checkpoint is truncated, lacks a tensor, or holds one of a wrong dtype or shape."""


class BadRequest(UsageError):
    """A value in a request is impossible: sampling, prompt length, number of devices.

    `option` is the keyword that the message begins with, where the command line is to say what it calls that.
    """

    def __init__(self, message: str = "", option: str = "") -> None:
        super().__init__(message)
        self.option = option


class BadConfiguration(UsageError):
    """A configuration or problem file says something impossible."""


class DoesNotFit(ShardnetError):
    """The devices cannot hold the weights and the KV cache."""

    exit_code = 3


class KVMemorySpent(ShardnetError):
    """A session's KV cache does not fit beside those of the other sessions."""

    exit_code = 2


class ClusterError(ShardnetError):
    """A device, or the way to it, failed."""


class JoinFailed(ClusterError):
    """A device could not join the cluster."""


class NameTaken(JoinFailed):
    """Another device of the cluster has that name."""


class OtherVersion(JoinFailed):
    """The cluster and this process have versions of shardnet that do not go together."""


class PortTaken(JoinFailed):
    """On another host of the cluster, something else listens on the port of this device's agent: a new agent has
    another one."""


class Evicted(ClusterError):
    """This device was struck off by the others: what it asks for is refused until it joins again."""


class PlanNotInForce(ClusterError):
    """A message is for a stage that a device does not have, or has no more: an old plan's, say."""


class DeviceLost(ClusterError):
    """A member died, or the connection to it broke. `device` names it."""

    def __init__(self, message: str, device: str = "") -> None:
        super().__init__(message)
        self.device = device


class CallTimeout(ClusterError):
    """A member did not answer in time. `device` names it."""

    def __init__(self, message: str, device: str = "") -> None:
        super().__init__(message)
        self.device = device
