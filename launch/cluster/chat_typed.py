"""What is typed in a chat: messages, of several lines where it must be, and orders, which begin with a slash. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted

GOES_ON = "\\"
"""At the end of a line: the message goes on in the next one."""
PROMPT, PROMPT_ON = "> ", "... "
ORDERS = {
    "/help": "what can be typed",
    "/reset": "begin anew; the model forgets what was said",
    "/system TEXT": "how it is to answer; without TEXT, nothing is said of it",
    "/stats": "how fast the last answer came, and how much of the context is used",
    "/retry": "answer the last message once more, with other random numbers",
    "/load FILE": "go on with a chat that /save has written",
    "/save FILE": "write what was said into a new file, as JSON",
    "/quit": "end, as Ctrl-D does",
}
_MORE = """A line that ends with \\ goes on in the next one, and what is pasted stays together. Ctrl-C stops an answer.
A message that begins with / is typed with a space before it."""
HELP = "\n".join([*(f"  {order:14} {what}" for order, what in ORDERS.items()), _MORE])


class Order(NamedTuple):
    """Something that the chat itself is asked."""

    name: str
    """With its slash."""
    rest: str


def read_turn(read: Callable[[str], str]) -> str:
    """What is typed next, line breaks and all.

    Args:
        read: reads a line without its end, given what is shown before it.

    Raises:
        EOFError: nothing comes any more.
    """
    lines: list[str] = []
    while True:
        try:
            line = read(PROMPT_ON if lines else PROMPT)
        except EOFError:
            if lines:
                return "\n".join(lines)
            raise
        if not line.endswith(GOES_ON):
            return "\n".join([*lines, line])
        lines.append(line.removesuffix(GOES_ON))


def order_of(typed: str) -> Order | None:
    """What the chat is asked; None for a message.

    Raises:
        BadRequest: it looks like an order, and is none.
    """
    if not typed.startswith("/"):
        return None
    name, _, rest = typed.partition(" ")
    if name not in {order.partition(" ")[0] for order in ORDERS}:
        raise BadRequest(f"{quoted(name)} is nothing that a chat can be asked. /help shows what is.")
    return Order(name, rest.strip())
