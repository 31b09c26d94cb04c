"""A cluster that stays: `shardnet up`, who joins and leaves it, how it is, and what it has loaded."""

from __future__ import annotations

import importlib
import json
import shlex
import threading
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import UsageError
from shardnet.foreign.quoting import shortened
from shardnet.launch.cluster.options import (
    NOBODY,
    AnyAnswer,
    AnyDevice,
    ChatOptions,
    ClusterOptions,
    EventOutput,
    JoinOptions,
    NextModel,
    OneAnswer,
    OneDevice,
    OwnDeviceOptions,
    ResultOutput,
    SpanOptions,
    StateOptions,
    TopOptions,
    UpOptions,
    WhichModel,
    WhomToTrust,
)
from shardnet.launch.cluster.serving import options_of_server
from shardnet.launch.cluster.tables import show_status, show_trusted
from shardnet.launch.cluster.telling import tell
from shardnet.launch.cluster.wake_lock import LOCK, awake
from shardnet.launch.flags import Given, Here, Only, flattened
from shardnet.launch.hosts.typed_code import FROM_INPUT, typed_code
from shardnet.launch.values import DRAFTING, GUESSING, given_or_any, require_draft, require_server
from shardnet.loader import glance_at_once
from shardnet.process.allocator import settle_allocator
from shardnet.process.imports import importing
from shardnet.process.lasting import is_running
from shardnet.process.light_set import require_light_set
from shardnet.process.signals import until_signalled
from shardnet.process.surroundings import require_address_space
from shardnet.session.options import GenerationOptions
from shardnet.source.glance import glance
from shardnet.source.trust import ask_gate

BY_COMMAND = tuple(field.name for field in fields(LoadOptions) if field.name != "split")
"""Of the options of a load. A split by hand is for those who know the order of the devices: Python."""

ANSWERING = (
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"),
    *("presence_penalty", "frequency_penalty", "speculate"),
    *DRAFTING,
)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    everything = (
        up,
        join,
        invite,
        trust,
        leave,
        remove,
        pause,
        unpause,
        status,
        top,
        chat,
        load,
        unload,
        resume,
        forget,
    )
    for command in everything:
        app.command(name=command.__name__)(flattened(command))


def up(
    what: WhichModel,
    where: StateOptions,
    device: OwnDeviceOptions,
    how: UpOptions,
    load: Annotated[LoadOptions, Only(BY_COMMAND), Here("placement", default="auto")],
    spans: SpanOptions,
    guessing: Annotated[GenerationOptions, Only(GUESSING)],
    output: EventOutput,
) -> None:
    """Start a cluster that stays until Ctrl-C: a coordinator and, as its first device, this machine.

    It prints what to type on other machines, which join it, and how to ask it.

    Example: shardnet up --model smollm2-135m-instruct
    """
    folder = where.folder
    if is_running(folder):
        raise UsageError(f"A cluster runs in {shortened(str(folder))} already. End it first, or name another folder.")
    if how.serve:
        require_server()
        require_draft(guessing)
    elif guessing != GenerationOptions():
        raise UsageError("--speculate and --draft are for the server of --serve. Add --serve, or leave them out.")
    glance_at_once(what.model)
    require_address_space()
    settle_allocator()  # it stays for months, and its threads come and go
    with importing():
        importlib.import_module("transformers.modeling_layers")  # a model will need it; the door is not opened before
        from shardnet.launch.cluster.up import run

    asked = replace(load, record_spans=spans.record_spans)
    own = None if how.no_device else device
    serving_with = options_of_server(how.serve_port, guessing) if how.serve else None
    run(what.model, folder, own, asked, listening=how.listening, serving_with=serving_with, as_json=output.json)


def join(where: ClusterOptions, device: OwnDeviceOptions, how: JoinOptions, output: EventOutput) -> None:
    """Offer this machine to a cluster until Ctrl-C. Models use it where it helps.

    Example: shardnet join 7-harbour-green
    """
    folder = where.folder()
    if how.code == FROM_INPUT:
        how = replace(how, code=typed_code())
    with ExitStack() as ends:
        ends.enter_context(awake(partial(_tell_may_sleep, output)))
        is_far = how.code is not None or not is_running(folder)
        if is_far:
            from shardnet.launch.hosts.linking import Way, be_linked

            way = Way(device.name, how.code, how.address, None if how.listen == NOBODY else how.listen, how.source_only)
            device = replace(device, name=ends.enter_context(be_linked(folder, way)))
        if how.source_only:
            _stay(folder, device, output)
        else:
            _join(folder, device, how, output, is_far=is_far)


def _tell_may_sleep(output: EventOutput) -> None:
    text = (
        f"Termux's wake lock was not taken: this phone stops computing when its screen goes dark. Try {LOCK} by hand."
    )
    tell({"event": "may sleep", "text": text}, as_json=output.json)


def _stay(folder: Path, device: OwnDeviceOptions, output: EventOutput) -> None:
    """Until a signal."""
    text = f"Commands on this machine reach the cluster with --cluster {shlex.quote(str(folder))}; Ctrl-C ends that."
    tell({"event": "linked", "text": text, "device": device.name}, as_json=output.json)
    with until_signalled():
        threading.Event().wait()


def _join(folder: Path, device: OwnDeviceOptions, how: JoinOptions, output: EventOutput, *, is_far: bool) -> None:
    require_light_set()
    require_address_space()
    from shardnet.launch.cluster.join import run

    run(folder, device, how, is_far=is_far, as_json=output.json)


def invite(where: ClusterOptions, output: ResultOutput) -> None:
    """Let one more machine join: prints what to type there."""
    folder = where.running_folder()
    from shardnet.launch.hosts.inviting import show

    invitation = ask_gate(folder, "invite")
    if output.json:
        print(json.dumps(invitation))
    else:
        show(invitation)


def trust(whom: WhomToTrust, where: ClusterOptions, output: ResultOutput) -> None:
    """Show which machines have a certificate of a cluster, or shut one out."""
    folder = where.running_folder()
    if whom.revoke is not None:
        ask_gate(folder, "revoke", whom.revoke)
    entries = ask_gate(folder, "trusted")
    if output.json:
        print(json.dumps(entries))
        return
    if whom.revoke is not None:
        print(f"{whom.revoke} is shut out.")
    show_trusted(entries)


def leave(which: AnyDevice, where: ClusterOptions) -> None:
    """Let a device leave in order."""
    folder = where.running_folder()
    with importing():
        from shardnet.launch.cluster.ask import tell_device

    tell_device(folder, "leave", which.name)


def pause(which: AnyDevice, where: ClusterOptions) -> None:
    """Let a device hold nothing, and stay in the cluster, until unpause."""
    folder = where.running_folder()
    with importing():
        from shardnet.launch.cluster.ask import tell_device

    tell_device(folder, "pause", which.name)


def unpause(which: AnyDevice, where: ClusterOptions) -> None:
    """Let a device that was paused be used again."""
    folder = where.running_folder()
    with importing():
        from shardnet.launch.cluster.ask import tell_device

    tell_device(folder, "unpause", which.name)


def remove(which: OneDevice, where: ClusterOptions) -> None:
    """Strike off a device that does not answer any more."""
    folder = where.running_folder()
    with importing():
        from shardnet.launch.cluster.ask import remove as run

    run(folder, which.name)


def status(where: ClusterOptions, output: ResultOutput) -> None:
    """Show the devices of a cluster, what they hold, and who asks it."""
    folder = where.running_folder()
    found = glance(folder)
    if output.json:
        print(json.dumps(found))
    else:
        show_status(found, folder)


def top(where: ClusterOptions, how: TopOptions) -> None:
    """Watch a cluster: its devices, what their time goes to, tokens per second, who asks, what happens. q ends it.

    Example: shardnet top --once --json
    """
    folder = where.running_folder()
    from shardnet.launch.cluster.top import run

    run(folder, how)


def chat(
    where: ClusterOptions,
    what: ChatOptions,
    generation: Annotated[
        GenerationOptions,
        Only(ANSWERING),
        Here("max_new_tokens", default=512),
        Here("seed", default=None, read=given_or_any),
    ],
    given: Given,
) -> None:
    """Talk with the model of a cluster, turn by turn: /help says what can be typed, Ctrl-C stops an answer.

    Tokens are chosen as the model's generation_config.json proposes, but for what is given here.

    Example: shardnet chat --temperature 0.7
    """
    folder = where.running_folder()
    require_draft(generation)
    require_address_space()
    with importing():
        from shardnet.launch.cluster.chat import run

    run(folder, generation, what.system, given)


def load(
    what: NextModel,
    where: ClusterOptions,
    load: Annotated[LoadOptions, Only(BY_COMMAND), Here("placement", default="auto")],
    spans: SpanOptions,
) -> None:
    """Load a model over all devices of a cluster, in place of the one that it holds."""
    folder = where.running_folder()
    with importing():
        from shardnet.launch.cluster.ask import load as run

    run(folder, what.model, replace(load, record_spans=spans.record_spans))


def unload(where: ClusterOptions) -> None:
    """Let the devices of a cluster hold no model."""
    folder = where.running_folder()
    with importing():
        from shardnet.launch.cluster.ask import unload as run

    run(folder)


def resume(
    which: AnyAnswer,
    where: ClusterOptions,
    guessing: Annotated[GenerationOptions, Only(DRAFTING)],
    output: ResultOutput,
) -> None:
    """Let an answer go on that broke off: as devices were lost, say. Prints all of it, from the beginning.

    shardnet status lists those that there are.
    """
    folder = where.running_folder()
    require_draft(guessing)
    require_address_space()
    with importing():
        from shardnet.launch.cluster.ask import resume as run

    run(folder, which.number, guessing, as_json=output.json)


def forget(which: OneAnswer, where: ClusterOptions) -> None:
    """Remove an answer that broke off, with its prompt."""
    folder = where.running_folder()
    with importing():
        from shardnet.launch.cluster.ask import forget as run

    run(folder, which.number)
