"""Performs what `shardnet task` was asked: a model, texts, results."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from shardnet.foreign.quoting import counted
from shardnet.launch.generate.run import open_model
from shardnet.launch.task.options import TaskRequest
from shardnet.launch.task.rows import Row, Writer, as_lines, rows_of, with_result, writer_for
from shardnet.process.standard_streams import say
from shardnet.progress import Progress, progress_bars
from shardnet.tasks.names import WRITING
from shardnet.tasks.pipeline import Pipeline

LONG_S = 2.0
"""Work that is done sooner shows no bar."""


def run_task(request: TaskRequest) -> None:
    """Results go to standard output or to a file, everything else to standard error.

    Raises:
        BadRequest: texts cannot be read, or what is there of results is something else.
        ShardnetError: as loading, and as the task.
    """
    texts = request.texts
    rows = rows_of(texts, request.files)
    writer = writer_for(texts, rows, sys.stdout)
    num_done = 0 if writer is None else writer.num_done
    if num_done:
        say(f"shardnet: {texts.output} has {counted(num_done, 'results')} already; {len(rows) - num_done} are left.")
    if num_done == len(rows):
        return
    with ExitStack() as resources:
        with progress_bars(enabled=False if texts.json else None) as progress:
            writes = request.task in WRITING
            _, model = open_model(request.model, None, progress, resources, must_write=writes)
        pipe = Pipeline(request.task, model, request.asked.given, ExitStack())
        left = rows[num_done:]
        with progress_bars(enabled=sys.stderr.isatty() and not texts.json) as progress:
            results = _told(pipe, [row[texts.column] for row in left], progress)
            if texts.json:
                found = {"task": pipe.task, "model": model.profile.name, "results": list(results)}
                print(json.dumps(found, ensure_ascii=False))
            else:
                _write(zip(left, results, strict=True), writer)


def _write(found: Iterable[tuple[Row, Any]], writer: Writer | None) -> None:
    """Each as it comes."""
    for row, result in found:
        if writer is not None:
            writer.write(with_result(row, result))
        else:
            print("\n".join(as_lines(result)), flush=True)


def _told(pipe: Pipeline, texts: list[str], progress: Progress) -> Iterator[Any]:
    began_s = time.monotonic()
    for done, result in enumerate(pipe.iterate(texts), 1):
        if time.monotonic() - began_s > LONG_S:
            progress(pipe.task, done, len(texts))
        yield result
