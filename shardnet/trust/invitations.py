"""Who may come in: invitations, each for one device and for a while. Pure: time and randomness are handed in.

An invitation has a token of 128 bits, for a QR code, and a short code. A short code can be tried once: whoever tries it
and does not prove to know it has burnt it, and another one takes its place. After three tries in a row that proved
nothing only tokens count, until the owner invites anew: nobody can guess on, or keep the screen busy.

Nothing is kept when the process ends: an invitation that it does not know is none. Not for several threads.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from shardnet.errors import UsageError
from shardnet.trust.codes import MOST_SLOTS, Code, new_code
from shardnet.trust.refusals import Reason, Refused

TOKEN_BYTES = 16
CODE_LIFE_S = 600.0
TOKEN_LIFE_S = 86400.0
TRY_S = 30.0
"""How long a try may take until it counts as one that proved nothing."""
MOST_TRIES = 3
"""In a row that prove nothing, of all codes together."""
MOST_OPEN = 32
"""Invitations at once."""
MOST_REMEMBERED = 64
"""Of those that are over: who comes with one hears why it does not count."""


class Invitation(NamedTuple):
    """What the owner's screen shows."""

    number: int
    token: bytes
    token_until_s: float
    code: Code | None
    """None where only the token counts. One that is just being tried stays on the screen."""
    code_until_s: float


class Try(NamedTuple):
    """Of a short code, by somebody who has proven nothing yet."""

    invitation: int
    code: Code
    until_s: float


@dataclass
class _Code:
    code: Code
    invitation: int
    until_s: float
    tried: Try | None = None
    """Since then nobody else can try it."""
    is_proven: bool = False
    is_burnt: bool = False


@dataclass
class _Invitation:
    number: int
    token: bytes
    until_s: float
    code: _Code
    """The last one."""
    is_over: Reason | None = None


class Invitations:
    """Those that are open, and some that were.

    Args:
        random: gives so many random bytes.
        code_life_s: how long a code counts.
        token_life_s: how long a token counts, and an invitation at most.
    """

    def __init__(
        self,
        random: Callable[[int], bytes] = secrets.token_bytes,
        code_life_s: float = CODE_LIFE_S,
        token_life_s: float = TOKEN_LIFE_S,
    ) -> None:
        self._random = random
        self._code_life_s = code_life_s
        self._token_life_s = token_life_s
        self._invitations: dict[int, _Invitation] = {}
        self._by_hash: dict[bytes, _Invitation] = {}
        """By the hash of the token: how long a look takes says nothing of a token."""
        self._slots: dict[int, _Code] = {}
        self._last_number = 0
        self._last_slot = random(1)[0] % MOST_SLOTS
        """Where codes begin is drawn, so that those of two clusters in one network begin with different numbers."""
        self._num_tries = 0
        """In a row that have proven nothing."""

    def invite(self, now_s: float) -> Invitation:
        """Make an invitation; short codes count again.

        Raises:
            UsageError: too many are open.
        """
        if len(self.open(now_s)) >= MOST_OPEN:
            raise UsageError(
                f"{MOST_OPEN} invitations are open, and no more can be. Use them, or wait until they expire."
            )
        self._num_tries = 0
        self._last_number += 1
        token = self._random(TOKEN_BYTES)
        code = self._draw_code(self._last_number, now_s)
        made = _Invitation(self._last_number, token, now_s + self._token_life_s, code)
        self._invitations[made.number] = self._by_hash[_hash(token)] = made
        self._forget_oldest()
        return self._shown(made, now_s)

    def open(self, now_s: float) -> tuple[Invitation, ...]:
        """What can be used now. A code that was tried for too long is replaced here."""
        self._end_overdue(now_s)
        return tuple(self._shown(each, now_s) for each in self._invitations.values() if each.is_over is None)

    def withdraw(self, number: int) -> bool:
        """End an invitation that nobody has used; False where it is not open."""
        invitation = self._invitations.get(number)
        if invitation is None or invitation.is_over is not None:
            return False
        invitation.is_over = Reason.EXPIRED
        return True

    def begin(self, slot: int, now_s: float) -> Try:
        """Begin to try the code in a slot. Who has begun and does not prove it has burnt it, in whatever way it ends.

        Raises:
            Refused: there is none that counts.
        """
        self._end_overdue(now_s)
        found = self._slots.get(slot)
        if found is None:
            raise Refused(Reason.UNKNOWN_CODE)
        over = self._invitations[found.invitation].is_over
        if over is not None:
            raise Refused(over)
        if found.is_burnt or found.tried is not None:
            raise Refused(Reason.BURNT)
        if now_s >= found.until_s:
            raise Refused(Reason.EXPIRED)
        if self._num_tries >= MOST_TRIES:
            raise Refused(Reason.ONLY_TOKEN)
        self._num_tries += 1
        found.tried = Try(found.invitation, found.code, now_s + TRY_S)
        return found.tried

    def fail(self, tried: Try, now_s: float) -> None:
        """A try has ended without proof. Changes nothing where it has ended already."""
        code = self._slots.get(tried.code.slot)
        if code is not None and code.tried is tried:
            self._burn(code, now_s)

    def use_code(self, tried: Try, now_s: float) -> int:
        """Use the invitation whose code was proven to be known, and return its number.

        Raises:
            Refused: the try took too long, or somebody else has used the invitation meanwhile.
        """
        self._end_overdue(now_s)
        code = self._slots.get(tried.code.slot)
        if code is None or code.tried is not tried:
            raise Refused(Reason.BURNT)
        number = self._use(self._invitations[tried.invitation])
        code.is_proven = True
        return number

    def use_token(self, token: bytes, now_s: float) -> int:
        """Use the invitation of a token, and return its number.

        Raises:
            Refused: there is none that counts.
        """
        self._end_overdue(now_s)
        invitation = self._by_hash.get(_hash(token))
        if invitation is None or not hmac.compare_digest(invitation.token, token):
            raise Refused(Reason.UNKNOWN_TOKEN)
        return self._use(invitation)

    def give_back(self, number: int) -> None:
        """Whoever used an invitation could not be taken in: its name was taken, say. It is open again as it was."""
        invitation = self._invitations.get(number)
        if invitation is not None and invitation.is_over is Reason.USED:
            invitation.is_over = None
            if invitation.code.is_proven:  # a try of somebody else's goes on
                invitation.code.is_proven, invitation.code.tried = False, None

    def _use(self, invitation: _Invitation) -> int:
        if invitation.is_over is not None:
            raise Refused(invitation.is_over)
        invitation.is_over = Reason.USED
        self._num_tries = 0
        return invitation.number

    def _end_overdue(self, now_s: float) -> None:
        """Tries that take too long, and invitations whose time is over."""
        for invitation in self._invitations.values():
            if invitation.is_over is not None:
                continue
            tried = invitation.code.tried
            if tried is not None and now_s >= tried.until_s:
                self._burn(invitation.code, now_s)
            if now_s >= invitation.until_s:
                invitation.is_over = Reason.EXPIRED

    def _burn(self, code: _Code, now_s: float) -> None:
        code.tried = None
        code.is_burnt = True
        invitation = self._invitations[code.invitation]
        if invitation.is_over is None and self._num_tries < MOST_TRIES:
            invitation.code = self._draw_code(invitation.number, now_s)

    def _draw_code(self, number: int, now_s: float) -> _Code:
        """In the next slot that no code needs which counts: of these there are fewer than slots."""
        slot = self._last_slot % MOST_SLOTS + 1
        while slot in self._slots and self._is_needed(self._slots[slot]):
            slot = slot % MOST_SLOTS + 1
        self._last_slot = slot
        made = _Code(new_code(slot, self._random), number, now_s + self._code_life_s)
        self._slots[slot] = made
        return made

    def _is_needed(self, code: _Code) -> bool:
        return self._invitations[code.invitation].is_over is None and not code.is_burnt

    def _forget_oldest(self) -> None:
        over = [each for each in self._invitations.values() if each.is_over is not None]
        for invitation in over[: max(0, len(over) - MOST_REMEMBERED)]:
            del self._invitations[invitation.number]
            del self._by_hash[_hash(invitation.token)]
        self._slots = {slot: code for slot, code in self._slots.items() if code.invitation in self._invitations}

    def _shown(self, invitation: _Invitation, now_s: float) -> Invitation:
        code = invitation.code
        is_known = code.tried is not None or self._num_tries < MOST_TRIES
        shown = code.code if is_known and not code.is_burnt and now_s < code.until_s else None
        return Invitation(invitation.number, invitation.token, invitation.until_s, shown, code.until_s)


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
