"""What a source asks for, as a session of the model on its stages."""

from __future__ import annotations

from collections.abc import Sequence

from shardnet.cluster.model import Model
from shardnet.session.options import GenerationOptions
from shardnet.session.request import (
    check_length,
    check_sampling,
    check_text_length,
    check_to_read,
    require_writer,
    sampling_of,
)
from shardnet.session.session import Session
from shardnet.session.sessions import Sessions
from shardnet.transport.listener_messages import Listener
from shardnet.transport.source_messages import SessionRequest


def session_for(request: SessionRequest, model: Model, answer: Sequence[int]) -> Session:
    """Open it on every stage.

    Args:
        answer: the first ids of the answer, where it was begun before.

    Raises:
        BadRequest: it is impossible.
        UnsupportedModel: the model is a classifier.
        KVMemorySpent, ClusterError: as `Sessions.start`.
    """
    sessions = model.deployment.sessions
    assert isinstance(sessions, Sessions), "this process coordinates the model"
    if request.rows is not None:
        ids = model.encode(request.prompt_ids)
        check_to_read(len(ids), model.context_tokens)
        return sessions.read(ids, request.rows)
    require_writer(model.profile)
    if request.is_scored:
        ids = model.encode(request.prompt_ids)
        check_text_length(len(ids), model.context_tokens)
        return sessions.score(ids, GenerationOptions(logprobs=request.sampling.logprobs).logprobs)
    asked = GenerationOptions(max_new_tokens=request.max_new_tokens, stop=request.stop, **request.sampling._asdict())
    ids = model.encode(request.prompt_ids)
    check_length(len(ids), asked.max_new_tokens, model.context_tokens)
    sampling = sampling_of(asked)
    check_sampling(sampling, model.profile, model.eos_ids)
    return sessions.start(
        ids,
        max_new_tokens=asked.max_new_tokens,
        eos_ids=model.eos_ids,
        sampling=sampling,
        answer=answer,
        listener=Listener(request.source, request.key) if request.key else None,
    )
