"""What `shardnet serve` does: a port, a model behind it, and an end in order."""

from __future__ import annotations

import json
import logging
import os
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from shardnet.errors import BadRequest, ClusterError
from shardnet.foreign.quoting import quoted
from shardnet.launch.generate.early import open_early
from shardnet.launch.generate.options import GenerateOptions
from shardnet.launch.generate.run import check_loaded, open_cluster
from shardnet.launch.serve.log_lines import LogLines
from shardnet.launch.serve.options import ServeOptions
from shardnet.launch.values import GUESSING
from shardnet.process.signals import until_signalled
from shardnet.process.standard_streams import say
from shardnet.progress import Progress, progress_bars
from shardnet.serve.asked import Defaults
from shardnet.serve.provider import OfCluster, OfOne, Provider
from shardnet.serve.server import Server, listen, tls_context
from shardnet.serve.service import Service
from shardnet.serve.settings import Limits, Settings
from shardnet.source.running_cluster import RunningCluster
from shardnet.timeline.events import Event


def run(asked: GenerateOptions, how: ServeOptions, keys: tuple[str, ...]) -> None:
    """Serve until a signal ends it.

    Raises:
        UsageError: it cannot listen there, or the model cannot be loaded as asked.
    """
    settings = _settings(asked, how, keys)
    tls = None
    if how.tls_cert is not None and how.tls_key is not None:
        tls = tls_context(how.tls_cert, how.tls_key)
    with ExitStack() as resources:
        bound = listen(how.host, how.port)
        resources.callback(bound.close)
        with progress_bars(enabled=False if how.json else None) as progress:
            provider = _provider(asked, how, progress, resources)
            with suppress(ClusterError):  # there is no model yet
                provider.model().draft_for(asked.generation)
        _log_requests(how, resources.enter_context(LogLines()))
        server = resources.enter_context(Server(Service(provider, settings), bound, tls))
        _tell(how, server.port, "http" if tls is None else "https", has_keys=bool(keys))
        with until_signalled():
            _wait(how.end_with)
    if not how.json:
        print("The server has ended.", flush=True)


def _provider(asked: GenerateOptions, how: ServeOptions, progress: Progress, resources: ExitStack) -> Provider:
    if asked.running_in is not None:
        running = RunningCluster.connect(asked.running_in, progress=progress)
        provider = resources.enter_context(OfCluster(running, asked.running_in))
        if asked.model:
            check_loaded(running.model, asked, asked.running_in)
        return provider
    files = open_early(asked, None, progress)
    cluster = resources.enter_context(open_cluster(asked, progress))
    on_event = None if how.json else _show_event
    return OfOne(
        resources.enter_context(cluster.load(files, **replace(asked.load, progress=progress, on_event=on_event)))
    )


def _log_requests(how: ServeOptions, lines: LogLines) -> None:
    """A line for each on standard error: its id, what was asked, the status, the seconds. Of nobody's text or key."""
    log = logging.getLogger("shardnet.serve")
    log.setLevel(logging.WARNING if how.no_log else logging.INFO)
    lines.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(lines)
    log.propagate = False
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # strangers that speak no HTTP are not worth a line


def _wait(pipe: int | None) -> None:
    """Until a signal, or until the other end of a pipe is closed: its process is gone."""
    if pipe is None:
        threading.Event().wait()
    else:
        while os.read(pipe, 1):
            pass


def _settings(asked: GenerateOptions, how: ServeOptions, keys: tuple[str, ...]) -> Settings:
    limits = Limits(
        body_bytes=int(how.max_body_mib * 2**20),
        connections=how.max_connections,
        waiting=how.max_waiting,
        wait_s=how.max_wait_s,
    )
    return Settings(
        keys=keys,
        hosts=tuple(name.lower() for name in how.allow_host or ()),
        origins=tuple(how.allow_origin or ()),
        names=tuple(how.served_model_name or ()),
        most_tokens=how.max_model_len,
        template=None if how.chat_template is None else _text_of(how.chat_template),
        guessing={name: asked.generation[name] for name in GUESSING},
        defaults=Defaults(chat_tokens=how.default_max_tokens),
        limits=limits,
    )


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise BadRequest(f"--chat-template {quoted(str(file))} cannot be read: {error}.") from error


def _tell(how: ServeOptions, port: int, scheme: str, *, has_keys: bool) -> None:
    host = f"[{how.host}]" if ":" in how.host else how.host
    url = f"{scheme}://{host}:{port}"
    if how.json:
        print(json.dumps({"event": "serving", "url": url}), flush=True)
        return
    print(f"The server answers at {url}/v1; Ctrl-C ends it.")
    print(f"A page to talk with the model: {url}/")
    print("Clients must show a key." if has_keys else "No key is asked for.", flush=True)


def _show_event(event: Event) -> None:
    say(f"shardnet: {event.text}.")
