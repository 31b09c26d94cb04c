"""What of a session is told to the ends of a ring alone: ids, and keys that stand for them. Pure."""

from __future__ import annotations

from shardnet.transport.session_messages import SessionSpec


def told_to(spec: SessionSpec, *, is_first: bool, is_last: bool) -> SessionSpec:
    """What a stage is told of a session.

    Args:
        is_first: whether ids come to it, as to who has the embedding.
        is_last: whether it has the head.
    """
    if not is_first:
        spec = spec._replace(offer_key=0, guess_key=spec.guess_key if is_last else b"")
    if is_last:
        return spec
    sampling = spec.sampling._replace(grammar="")
    return spec._replace(sampling=sampling, prompt_ids=(), listener=None, targets=(), rows=None)
