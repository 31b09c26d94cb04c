"""Which messages may travel, and tensors: for whoever reads or writes any. The door's own are not among them."""

from __future__ import annotations

from shardnet.transport.calibration_messages import CALIBRATION_MESSAGES
from shardnet.transport.device_messages import DEVICE_MESSAGES
from shardnet.transport.failure import Failure
from shardnet.transport.holding_messages import HOLDING_MESSAGES
from shardnet.transport.listener_messages import LISTENER_MESSAGES
from shardnet.transport.messages import MESSAGE_TYPES
from shardnet.transport.offer_messages import OFFER_MESSAGES
from shardnet.transport.rows_messages import ROWS_MESSAGES
from shardnet.transport.sharing_messages import SHARING_MESSAGES
from shardnet.transport.shipping_messages import SHIPPING_MESSAGES
from shardnet.transport.source_messages import SOURCE_MESSAGES
from shardnet.transport.wire import tensors
from shardnet.transport.wire.values import LAYOUTS, allow

__all__ = ["LAYOUTS", "tensors"]

allow(
    Failure,
    *MESSAGE_TYPES,
    *LISTENER_MESSAGES,
    *SOURCE_MESSAGES,
    *SHIPPING_MESSAGES,
    *DEVICE_MESSAGES,
    *SHARING_MESSAGES,
    *HOLDING_MESSAGES,
    *OFFER_MESSAGES,
    *CALIBRATION_MESSAGES,
    *ROWS_MESSAGES,
)
