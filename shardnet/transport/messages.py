"""The whole wire protocol of a running model on one page.

Endpoints of every device (handlers in `shardnet.device.worker`), and who calls them:

    hop(Hop)                     stage -> next stage, also the sampled ids from the last stage back to the first.
                                 Answered at once. For the few tokens of decoding.
    bulk_hop(Hop)                the same for the chunks of a prompt; answered when the receiver *starts* on it, which
                                 is the back-pressure: see `MAX_BULK_CHUNKS`.
    open_session(RingId, stage, SessionSpec)      coordinator -> every stage; reserves KV memory. How many tokens of it
                                 are there already: see `sharing_messages`
    close_sessions(RingId, stage, sessions)       coordinator -> every stage; frees it, later hops of these are dropped
    open_stage(StageSpec)        coordinator -> device; leaves a stage there behind a remote object
    find_stage(source, number, (StageKey, ...))      the same for a stage that is there already, which an earlier
                                 coordinator has left
    end_stages(source, plan_version)     coordinator -> device; ends what earlier ones have left
    copy_sessions(StageKey, CopyWanted)           follower -> owner of its units; Copied, read between two steps
    stages()                     coordinator -> device, every second, as a sign of life; the StageKeys that it has
    describe(), has_copy(checkpoint), profile(...), ping()      coordinator -> device; see `device_messages`
    load(), report(), reset(), drain_spans(), close()  coordinator -> stage, by remote object; StageSizes, StageAccount
    adopt(StageSpec), switch(RingId), retire(RingId)     the same, when another ring takes over
    shape(RingId, (Stretch, ...))                        the same, where it has other units in that ring; StageSizes
    standings(), resend(RingId, (Wanted, ...))           the same, when a stage was lost; SessionStandings
    follow(RingId, (Owner, ...)), pull((Owner, ...))     the same, of a stage that is prepared to take over units
    pause(must_pause) -> text    coordinator -> device; it shall hold nothing, or may again: why it pauses all the same
    leave()                      coordinator -> device; ends its process

Endpoints of the coordinator:

    tokens(Tokens)               last stage -> source: what was sampled. A listener hears it, too: `listener_messages`
    session_failed(RingId, session, text)        a stage -> source: this session cannot go on
    stage_failed(RingId, stage, device, text)    any stage whose computation failed
    hop_failed(RingId, stage, device, text)      any stage whose hop to the next stage, that one, failed
    hop_late(RingId, stage, device, text)        any stage to which the next one does not answer at all
    load_progress(RingId, stage, done_bytes, total_bytes), profile_progress(device, done, total)
    holds(RingId)                device -> coordinator: whether it has a use for the stages of that ring

What measures links has endpoints of its own on every device: `probe_link`, `probe_sink`, `probe_source` (see
`shardnet.profiling.link_probe`), `probe_hop`, `probe_back` and `probe_over` (see `hop_probe`).

Whatever goes along a ring is sent again while no answer comes (`shardnet.transport.delivery`), and each of these may
arrive twice, late, or in another order: receivers apply it once. A plan version, a session's number and an epoch are
given out once in a cluster's life, so that nothing that an old ring still sends fits a new one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from shardnet.timeline.recorder import Totals
from shardnet.transport.holding_messages import Holding
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec

MAX_BULK_CHUNKS = 2
"""While the tokens of so many full ones wait at the next stage, none is sent: one keeps it busy, one is on its way."""


class Part(NamedTuple):
    """The new tokens of one session within a hop."""

    session: int
    position: int
    """Tokens of the session that come before these: a stage applies a part only at its own length, and once."""
    num_tokens: int
    branch: int = 0
    """Of which they are: see `speculation.lineage`."""
    branch_from: int = 0
    """So many tokens it has in common with the branch before it."""
    num_guesses: int = 0
    """The last so many tokens of the session are guesses; more than these, where those before them are guesses, too."""
    tags: bytes = b""
    """Of those among these, `TAG_BYTES` each: see `speculation.tags`."""

    @property
    def end(self) -> int:
        """Tokens of the session, these included."""
        return self.position + self.num_tokens

    @property
    def certain(self) -> int:
        """So many tokens of the session are no guesses, as far as this part says."""
        return self.end - self.num_guesses


class RingId(NamedTuple):
    """Which ring a message belongs to."""

    epoch: bytes
    """Of the coordinator that made the ring: 16 random bytes, so that no other's messages fit."""
    plan_version: int


StageKey = tuple[RingId, int]
"""A ring, and the index of a stage in it."""


class Hop(NamedTuple):
    """New positions of some sessions on their way to a stage."""

    ring_id: RingId
    stage: int
    """Index of the receiving stage in the ring."""
    parts: tuple[Part, ...]
    payload: torch.Tensor
    """A row for each token [sum of num_tokens, W], as `codecs.rows` has them; for stage 0 token ids."""
    sender: str
    sent_ns: int
    """The sender's `time.monotonic_ns()`."""
    unit: int
    """For which these rows are. A stage that begins with another one drops them: it or the sender has others by now."""


class SessionStanding(NamedTuple):
    """What a stage knows of an open session, between two of its steps."""

    session: int
    length: int
    """Tokens that it has applied."""
    ids_from: int
    """The position of the first of `ids`."""
    ids: tuple[int, ...]
    """Of the ring's first stage: those that have come, one behind the other from position 0 on, also those that wait.
    Of the one with the head: those that it has sampled; the last one of an answer, too, which does not go on. Of a
    stage that is both: what is known by either, from 0 on. Of others: none."""
    kept_from: int = 0
    """What it has sent is kept from this position on, and can be sent again: see `StageHost.resend`."""
    is_copy: bool = False
    """It was copied from another stage, which may have sampled more since."""


class Wanted(NamedTuple):
    """From where on a session's tokens are to be sent again."""

    session: int
    position: int
    """So many tokens the next stage has."""
    num_known: int = 0
    """So many some stage has, or whoever knows most of the answer."""


class Owner(NamedTuple):
    """A stage that has, in a ring, units that another one is prepared to take over."""

    device: str
    key: StageKey
    """Where it is found there."""
    first_unit: int
    last_unit: int


class HeldCopy(NamedTuple):
    """What a follower has of a session."""

    session: int
    length: int
    """Tokens of which it has keys and values of the owner's units."""
    num_came: int
    """At the ring's first stage: ids that have come."""
    sampled_to: int
    """Where the head is: the position behind the last id that was sampled."""


class CopyWanted(NamedTuple):
    """What a follower asks of one owner."""

    first_unit: int
    last_unit: int
    is_end: bool
    """The follower ends with that unit: it wants what the owner has sent, and to know of sessions that it has not."""
    held: tuple[HeldCopy, ...]
    """Of these it wants tokens."""
    passed_over: tuple[int, ...]
    """Sessions that it knows and has no room for."""
    most_bytes: int
    patience_s: float
    """For so long the owner may let its own work go first."""


class OwnedSession(NamedTuple):
    """How far an open session is at its owner."""

    session: int
    length: int
    kept_from: int
    """As in `SessionStanding`."""
    came_from: int
    came: tuple[int, ...]
    """At the ring's first stage: ids that have come, those that wait, too; the first one's position is `came_from`."""
    sampled_from: int
    sampled: tuple[int, ...]
    """Where the head is: likewise those that were sampled."""
    is_over: bool
    """The last of these is the answer's last."""
    num_scores: int
    """Among so many each of them was drawn; 0 where none was."""
    branch: int = 0
    """Of which its tokens are; guesses are not among them: see `speculation.lineage`."""


class Copied(NamedTuple):
    """What an owner answers."""

    opened: tuple[SessionSpec, ...]
    """Those of which the follower does not know."""
    sessions: tuple[OwnedSession, ...]
    """All that are open, oldest first."""
    parts: tuple[Part, ...]
    """Of the sessions that are held, those least behind first, as much as was asked for at most."""
    rows: torch.Tensor
    """Their keys and values [sum of num_tokens, W]: keys and then values of each block of the units, in order."""
    sent: torch.Tensor | None
    """Rows [sum of num_tokens, W] that were sent of them; None where the owner has further units, or the head."""


class Tokens(NamedTuple):
    """What the last stage tells the source after a step."""

    ring_id: RingId
    tokens: tuple[SampledToken, ...]


class RingStop(NamedTuple):
    """One stage as its neighbours see it."""

    device: str
    first_unit: int
    last_unit: int
    sent_as: str
    """The codec of its hidden states on their way to the next one; of the last one, whose ids have none, that of the
    others."""


class StageSpec(NamedTuple):
    """Everything a device needs to load a shard and to run it as a stage of a ring."""

    ring_id: RingId
    stage: int
    ring: tuple[RingStop, ...]
    source: str
    """The transport name of the coordinator: where sampled tokens are told."""
    checkpoint: str
    """Its name by content, under which the device finds its own copy; paths never travel."""
    config: str
    """What the model is, with all that its family says beside `config.json`; see `shardnet.models.plain_config`."""
    tensors: dict[str, str]
    """The root of each tensor that the shard is made of; see `shardnet.loader.parts`."""
    dtype: str
    kv_budget_bytes: int
    """What the KV caches of all stages of this deployment on the device may reserve together, old and new ones."""
    prefill_chunk_tokens: int
    record_spans: bool
    deployment: int
    """The plan version of the first ring of the loaded model; stays when another ring takes over."""
    num_groups: int = 1
    """How many stages of the ring can compute at the same time; see `stage.grouping`."""
    keep_s: float = 0.0
    """How long the stage is kept while nobody who has its coordinator's place knows the ring."""
    holding: Holding = Holding()
    """How its weights, keys and values are held."""


class Stretch(NamedTuple):
    """Units that a stage is to keep of those that it has."""

    stage: int
    """Its place in the ring. Behind the ring's own stages are those that become part of one of them."""
    first_unit: int
    last_unit: int


class StageSizes(NamedTuple):
    """What a stage is: when it was loaded, or since then. Bytes."""

    weight_bytes: int
    bytes_read: int
    """From the checkpoint; less where the device held some of the weights already."""
    kv_bytes_per_token: int
    first_unit: int
    last_unit: int


class HopTime(NamedTuple):
    """How long a hop of decoding took, by the sender's clock."""

    device: str
    """To which."""
    seconds: float
    """From when it was handed over until it was answered, which is before anything is computed of it."""
    num_bytes: int
    """That had to arrive before that: its own, and those of hops that were not answered when it was sent."""


class StageAccount(NamedTuple):
    """What a stage did since its last reset, and what memory it and its device take."""

    totals: Totals
    peak_rss_bytes: int
    """The most memory that the device's process has held."""
    kv_reserved_bytes: int
    num_sessions: int
    num_hops: int
    """That it has timed since it was made."""
    last_hops: tuple[HopTime, ...]
    """The newest of these, oldest first."""


MESSAGE_TYPES: tuple[type, ...] = (
    Part,
    RingId,
    Hop,
    SamplingOptions,
    SessionSpec,
    SessionStanding,
    Wanted,
    Owner,
    HeldCopy,
    CopyWanted,
    OwnedSession,
    Copied,
    SampledToken,
    Tokens,
    RingStop,
    StageSpec,
    StageSizes,
    Stretch,
    Totals,
    HopTime,
    StageAccount,
)
"""The classes that may travel, besides plain data and tensors. Their order gives their numbers on the wire."""
