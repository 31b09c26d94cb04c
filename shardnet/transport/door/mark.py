"""A mark of all that members say to the door and to each other: who has another one does not understand them."""

from __future__ import annotations

from shardnet.transport.door import messages
from shardnet.transport.wire import frames
from shardnet.transport.wire.registered import LAYOUTS
from shardnet.transport.wire.schema import Layout, mark_of

MARK = mark_of((*messages.LAYOUTS, *map(Layout, frames.KINDS), *LAYOUTS))
