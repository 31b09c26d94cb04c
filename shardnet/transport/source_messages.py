"""What sources and the coordinator of a cluster that outlives them say to each other, on one page.

A source is a member that holds no stage; its name begins with `@`. Endpoints of the coordinator (handlers in
`shardnet.coordinator`), all of which may be asked again when an answer does not come:

    ping()                       answered at once: it lives, and what it was asked before takes its time
    cluster_status()             -> ClusterStatus: who is there, what is loaded, who talks
    model_info()                 -> ModelInfo: what a source must know to turn text into ids and back
    start_session(SessionRequest)      answered when the session is open on every stage, with how many of its tokens
                                 these had from another one; or with why it is not
    follow(ticket, have, digest, ahead) -> Told: the tokens from index `have` on. Answered as soon as there is one, or
                                 the session is over, or after `FOLLOW_S`. Renews the lease of the session. Those before
                                 must have that `digest`: what was computed anew may be another answer. `ahead` are the
                                 ids of the last of them, which the coordinator has not told: they came straight
                                 (`listener_messages`). Where it did not know them, or lacks some before, it says so at
                                 once.
    read_rows(ticket, first) -> Rows      of a text that is read, those from `first` on, as many as one message brings;
                                 none where none have come for `FOLLOW_S`. Renews the lease. See `rows_messages`
    close_session(ticket)        frees it, also where its `start_session` comes later
    broken_off() -> BrokenOffs   the answers that may be resumed
    resume_session(ResumeRequest)      as `start_session`; followed from the first token on
    prompt_of(ticket) -> ids     of the prompt of such a session: its source has not asked for it first
    forget_session(number)       removes one that broke off; that of a number which is not there is done already
    load(ticket, model, options) -> LoadState: begins to load at the first time, then says how far it is, shortly
    unload(ticket), leave(ticket, device), remove(ticket, device)      done once for a ticket
    pause_device(ticket, device), unpause_device(ticket, device)       the same
    reports() -> StageReports, reset_reports(), timeline() -> TimelineRecord: of the loaded model, whoever used it
    goodbye(device) -> text      device -> coordinator: it is about to leave, which is no loss; what it holds, in words
    drain(device) -> text        the same, then: answered when others have taken that over, with who has; empty where
                                 nobody can
    pause(device, why) -> text   device -> coordinator: it holds nothing from now on. Answered as `drain`, when that is
                                 so at the coordinator
    unpause(device)              the same, later: it may be used again

A ticket is a random number that a source gives to what it asks for, so that asking again asks for the same. A session
that its source has not followed for `LEASE_S` is closed.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from shardnet.plan import Classifier, LeftOut, ModelProfile, Plan, StagePlan, UnitProfile
from shardnet.timeline.events import Event
from shardnet.timeline.history import History
from shardnet.timeline.stage_report import StageReport, TimelineRecord, Track
from shardnet.transport.rows_messages import RowsAsked
from shardnet.transport.session_messages import SampledToken, SamplingOptions

COORDINATOR = "coordinator"
"""What the coordinator of every cluster is called."""
FOLLOW_S = 10.0
LEASE_S = 60.0


LoadKeywords = dict[str, str | int | float | bool | tuple[int, ...] | None]
"""Options of a load, by their names as `LoadOptions` has them, which checks them."""


class SessionRequest(NamedTuple):
    """A conversation that a source wants."""

    ticket: int
    source: str
    model: int
    """Which loaded model the ids are for: see `ModelInfo`."""
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingOptions
    stop: tuple[str, ...] = ()
    """What its source ends the text before. Kept with the session: stages know no text."""
    key: int = 0
    """By which its source knows what comes straight; see `Listener`. 0: it hears nothing but what it asks for."""
    is_scored: bool = False
    """The ids are a text that is scored: those behind the first are the answer, and nothing is sampled. It is not kept:
    where its coordinator is killed, its source asks anew."""
    rows: RowsAsked | None = None
    """The ids are a text of which these rows are read, by `read_rows`. Nor is that kept."""

    @property
    def is_given(self) -> bool:
        """Whether all of it is known from the start, and nothing is answered to it."""
        return self.is_scored or self.rows is not None

    @property
    def is_step(self) -> bool:
        """Whether it is one of many for the same text, which grows: nobody is told of each, nor is it kept for long."""
        return self.rows is not None and self.rows.stays


class ResumeRequest(NamedTuple):
    """An answer that broke off, which a source wants to go on."""

    ticket: int
    source: str
    model: int
    """As in `SessionRequest`."""
    number: int
    """See `BrokenOff`."""
    key: int = 0
    """As in `SessionRequest`."""
    has_draft: bool = False
    """Its source guesses from here on, whatever it was asked with before; see `offer_messages`."""


class ModelMark(NamedTuple):
    """By which it is known whether a session can go on with a model: what differs here may give other tokens."""

    name: str
    checkpoint: str
    """Its name by content."""
    dtype: str
    wire: str
    """What hidden states travel in."""
    weights: str = "auto"
    """In how many bits they are held; notes of earlier releases do not say it."""
    kv_dtype: str = "auto"
    """What keys and values are kept in; likewise."""


class BrokenOff(NamedTuple):
    """An answer that broke off, and may be resumed."""

    number: int
    """By which it is asked for. Not given again in a state folder."""
    model: ModelMark
    prompt_tokens: int
    num_tokens: int
    """Of the answer, so far."""
    max_new_tokens: int
    sampling: SamplingOptions
    stop: tuple[str, ...]
    at_s: float
    """When it broke off, in seconds since 1970."""


class Told(NamedTuple):
    """What came of a session since its source asked last."""

    tokens: tuple[SampledToken, ...]
    is_over: bool
    """Nothing comes behind these."""
    num_known: int
    """So many tokens the coordinator knows, these included: fewer than its source where another one was killed."""


class ModelInfo(NamedTuple):
    """What is loaded."""

    model: int
    """A number that no other loaded model of this cluster gets."""
    checkpoint: str
    """Its name by content, by which the source finds its own copy of the tokenizer."""
    profile: ModelProfile
    plan: Plan
    events: tuple[Event, ...]
    """What happened since it was loaded."""
    eos_ids: tuple[int, ...]
    context_tokens: int


class LoadState(NamedTuple):
    """How far a load is."""

    is_over: bool
    progress: tuple[tuple[str, float, float], ...]
    """What is being done, how much of it is done, and of how much."""


class MemberStatus(NamedTuple):
    """A device, as the coordinator knows it."""

    name: str
    state: Literal["present", "suspected", "paused"]
    units: tuple[tuple[int, int], ...]
    """The first and the last one of each of its stages."""
    num_sessions: int
    memory_bytes: int | None
    """What its process holds; None where it does not say so at once, as with `memory_usable_bytes`."""
    memory_usable_bytes: int | None
    """What shardnet may use there now, besides."""
    num_threads: int | None
    compute: str | None = None
    """Where it computes: "cpu", "cuda:0"."""
    why: str = ""
    """Why it is paused, where it is."""
    battery_percent: float | None = None
    """What is left in its machine's battery; None where there is none, or it cannot be read. So for the next two."""
    is_charging: bool | None = None
    """Whether power comes in."""
    temperature_c: float | None = None
    """Of the battery, where that is known; or else of the hottest part of its machine."""


class SessionStatus(NamedTuple):
    """A conversation of a source."""

    source: str
    prompt_tokens: int
    num_tokens: int
    """Of the answer, so far."""
    age_s: float
    cached_prompt_tokens: int = 0
    """Of the prompt's, those that devices had from another answer."""
    guesses_checked: int = 0
    """Of the answer, so far; as in `Generation`."""
    guesses_right: int = 0


class StageStatus(NamedTuple):
    """A stage of the loaded model, and what its time went to in the last seconds: shares of 1, None where that is not
    known, as nobody has looked shortly before."""

    device: str
    first_unit: int
    last_unit: int
    compute_share: float | None
    wire_share: float | None
    idle_share: float | None
    sent_as: str
    """In what its hidden states go to the next one, where that is not the model's own dtype; else ''."""


class Happened(NamedTuple):
    """Something that was told by the coordinator."""

    at_s: float
    """Since 1970."""
    event: str
    text: str
    device: str = ""
    """Which one it is about, if one."""
    seconds: float | None = None
    """What it took, where it took a while: until a lost device's units were taken over, say."""


class ClusterStatus(NamedTuple):
    """Who is there, what is loaded, who talks."""

    members: tuple[MemberStatus, ...]
    sources: tuple[str, ...]
    model: str
    """Its name; empty where none is loaded."""
    loading: str
    """Of the one that is being loaded, if any."""
    why_none: str
    """Why no model is loaded, where one should be."""
    plan_version: int
    sessions: tuple[SessionStatus, ...]
    broken_off: tuple[BrokenOff, ...] = ()
    """Those that nobody resumes now."""
    stages: tuple[StageStatus, ...] = ()
    tokens_per_s: float | None = None
    """Of all answers, in the last seconds; None as the shares of a stage."""
    events: tuple[Happened, ...] = ()
    """The last ones, the oldest first."""


SOURCE_MESSAGES: tuple[type, ...] = (
    UnitProfile,
    Classifier,
    ModelProfile,
    StagePlan,
    LeftOut,
    Plan,
    Event,
    StageReport,
    Track,
    History,
    TimelineRecord,
    SessionRequest,
    ResumeRequest,
    ModelMark,
    BrokenOff,
    Told,
    ModelInfo,
    LoadState,
    MemberStatus,
    SessionStatus,
    StageStatus,
    Happened,
    ClusterStatus,
)
"""As `messages.MESSAGE_TYPES`, behind which they are numbered."""
