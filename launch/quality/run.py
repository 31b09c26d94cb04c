"""Measures what `shardnet quality` was asked: loads each scheme of weights, reads the text, decodes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from shardnet.cluster.cluster import Cluster
from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, UsageError
from shardnet.launch.generate.early import open_early
from shardnet.launch.generate.options import GenerateOptions
from shardnet.launch.generate.run import check_loaded, open_cluster
from shardnet.launch.quality.options import AS_LOADED, QualityRequest
from shardnet.launch.quality.results import Measured, Row, compare, reference_of
from shardnet.launch.quality.windows import windows_of
from shardnet.plan import DTYPES
from shardnet.process.cache_folder import cache_folder
from shardnet.profiling.losses import Loss, LossStore
from shardnet.progress import Progress
from shardnet.quantised.schemes import AUTO, bits_of
from shardnet.session.request import check_text_length
from shardnet.source.running_cluster import RunningCluster

_log = logging.getLogger(__name__)

PROMPT_TOKENS = 32
DECODED_TOKENS = 48
LEAST_KEPT_TOKENS = 256
"""Of a text whose losses `--quality` may go by: of fewer, the change is mostly chance."""


@dataclass(frozen=True)
class QualityResult:
    """What was found."""

    model: str
    title: str
    num_tokens: int
    num_windows: int
    window: int
    """Tokens of one."""
    devices: tuple[str, ...]
    reference: str
    """The scheme that others are compared with."""
    rows: list[Row]


@dataclass(frozen=True)
class _Reading:
    """Of one model, whatever its weights."""

    ids: list[int]
    window: int


def run_quality(request: QualityRequest, progress: Progress) -> QualityResult:
    """Measure each scheme, one after the other.

    Raises:
        BadRequest: the text has less than two tokens; another checkpoint is of another model.
        ShardnetError: as loading and `Model.score`.
    """
    measured: list[Measured] = []
    with ExitStack() as resources:
        options = request.model
        if options.running_in is not None:
            running = resources.enter_context(RunningCluster.connect(options.running_in, progress=progress))
            model = running.model
            check_loaded(model, options, options.running_in)
            reading = _reading_of(model, request)
            measured.append(_measure(model, AS_LOADED, reading, progress))
        else:
            for other in request.also:  # what is not there is said before anything is measured
                open_early(replace(options, model=other), None, progress)
            cluster: Cluster | None = None
            checkpoint = ""
            readings: list[_Reading] = []
            num_rows = len(request.schemes) * len(request.kv_dtypes)  # behind them are other checkpoints
            for name, asked in _rows_of(request, progress):
                files = open_early(asked, None, progress)
                cluster = cluster or resources.enter_context(open_cluster(options, progress))
                with cluster.load(files, **asked.load) as model:
                    reading = _reading_of(model, request)
                    if readings and readings[0].ids != reading.ids:
                        raise BadRequest(f"{name} reads the text as other tokens: it is no checkpoint of this model.")
                    checkpoint = checkpoint or model.checkpoint
                    readings.append(reading)
                    measured.append(_measure(model, name, reading, progress))
                # at once, as the next row may be what `--quality` chooses by it
                _keep_losses(checkpoint, compare(measured)[:num_rows], len(reading.ids), request.title)
        return QualityResult(
            model.profile.name if options.running_in is not None else Path(options.model).name.removesuffix(".gguf"),
            request.title,
            len(reading.ids),
            len(windows_of(len(reading.ids), reading.window)),
            reading.window,
            tuple(model.plan.devices),
            reference_of(measured).scheme,
            compare(measured),
        )


def _rows_of(request: QualityRequest, progress: Progress) -> Iterator[tuple[str, GenerateOptions]]:
    """What is loaded in turn, and what it is called: the model with each scheme, and other checkpoints as they are."""
    options = request.model
    for scheme, kv_dtype in product(request.schemes, request.kv_dtypes):
        quality = options.load.quality if scheme == AUTO else None
        load = replace(options.load, weights=scheme, quality=quality, kv_dtype=kv_dtype, progress=progress)
        yield scheme, replace(options, load=load)
    for other, kv_dtype in product(request.also, request.kv_dtypes):
        load = replace(options.load, quality=None, kv_dtype=kv_dtype, progress=progress)
        yield Path(other).name, replace(options, model=other, load=load)


def _keep_losses(checkpoint: str, rows: Sequence[Row], num_tokens: int, title: str) -> None:
    """For `--quality`, which goes by what few bits cost this model."""
    few = [row for row in rows if row.change is not None and row.kv_dtype == AUTO and bits_of(row.weights)]
    has_reference = any(row.change is None and row.weights in DTYPES for row in rows)
    losses = {row.weights: Loss(row.change or 0.0, num_tokens, title) for row in few}
    if losses and has_reference and checkpoint and num_tokens >= LEAST_KEPT_TOKENS:
        try:
            LossStore(cache_folder()).save(checkpoint, losses)
        except UsageError as error:
            _log.warning("%s --quality goes without.", error)


def _reading_of(model: Model, request: QualityRequest) -> _Reading:
    ids = model.encode(request.text)[: request.tokens]
    check_text_length(len(ids), len(ids))
    return _Reading(ids, min(request.window, model.context_tokens, len(ids)))


def _measure(model: Model, scheme: str, reading: _Reading, progress: Progress) -> Measured:
    likelihoods: list[float] = []
    likeliest: list[int] = []
    ids, num_computed, began_s = reading.ids, 0, time.monotonic()
    what, total = f"reading with weights {scheme}", len(ids) - 1
    for window in windows_of(len(ids), reading.window):
        num_known = window.scored_from - window.first - 1
        scored_before = len(likelihoods)

        def show(done: int, _: int, known: int = num_known, before: int = scored_before) -> None:
            progress(what, before + max(0, done - known), total)

        scores = model.score(ids[window.first : window.end], on_progress=show)
        likelihoods += scores.log_likelihoods[num_known:]
        likeliest += scores.likeliest[num_known:]
        num_computed += window.end - window.first - 1
    took_s = time.monotonic() - began_s
    weight_bytes = sum(report.weight_bytes for report in model.report())
    rate = _decode_rate(model, ids[:PROMPT_TOKENS])
    return Measured(
        scheme,
        tuple(likelihoods),
        tuple(likeliest),
        weight_bytes,
        rate,
        num_computed / took_s,
        model.profile.kv_dtype,
    )


def _decode_rate(model: Model, prompt: Sequence[int]) -> float | None:
    """Tokens per second of one answer."""
    room = model.context_tokens - len(prompt)
    if room < 1:
        return None
    [answer] = model.generate([prompt], max_new_tokens=min(DECODED_TOKENS, room))
    return answer.tokens_per_s
