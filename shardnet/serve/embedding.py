"""`POST /v1/embeddings`: a vector of length 1 for each text, of what the model's last norm gives."""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from starlette.requests import Request

from shardnet.cluster.model import Model
from shardnet.serve.bodies import MOST_TEXTS, EmbeddingBody
from shardnet.serve.errors import refused
from shardnet.serve.prompting import texts_of
from shardnet.serve.service import Service
from shardnet.serve.streaming import while_here
from shardnet.session.request import check_to_read

AT_ONCE = 16
"""So many texts go through the ring together; those behind them do not, when their client has gone away."""


class Embedded(NamedTuple):
    """What came of the texts of a request."""

    rows: list[list[float]]
    num_tokens: int


async def embeddings_of(service: Service, request: Request, body: EmbeddingBody) -> dict[str, Any]:
    """The answer to a request.

    Raises:
        ApiError, ShardnetError: it cannot be answered, or not now.
    """
    texts = texts_of("input", body.input)
    if len(texts) > MOST_TEXTS:
        raise refused("input", f"has more than the {MOST_TEXTS} texts that one request may have.")
    is_gone = threading.Event()
    try:
        embedded = await while_here(request, service.open_beside(partial(_embed, service, body, texts, is_gone)))
    finally:
        is_gone.set()
    is_base64 = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _as_base64(row) if is_base64 else row}
        for index, row in enumerate(embedded.rows)
    ]
    usage = {"prompt_tokens": embedded.num_tokens, "total_tokens": embedded.num_tokens}
    return {"object": "list", "data": data, "model": body.model, "usage": usage}


def _embed(
    service: Service, body: EmbeddingBody, texts: Sequence[str | list[int]], is_gone: threading.Event
) -> Embedded:
    """On a thread."""
    model: Model = service.provider.model()
    service.check_name(model, body.model)
    ids = [model.encode(text) for text in texts]
    for each in ids:
        check_to_read(len(each), service.context_of(model))
    rows: list[list[float]] = []
    for first in range(0, len(ids), AT_ONCE):
        if is_gone.is_set():
            break
        found = model.embed(ids[first : first + AT_ONCE], pooling=body.pooling or "last")
        rows += (found / found.norm(dim=1, keepdim=True).clamp(min=1e-12)).tolist()
    return Embedded(rows, sum(map(len, ids)))


def _as_base64(row: list[float]) -> str:
    """As numbers of 4 bytes, the lowest first."""
    import numpy

    return base64.b64encode(numpy.asarray(row, dtype="<f4").tobytes()).decode()
