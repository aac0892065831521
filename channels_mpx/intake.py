"""What arrives under the layer's prefix: the header is read, and what is no message is counted.

Anybody who may publish to Redis can publish garbage there. It never raises into the reader and
never reaches a consumer: it is counted, and logged once per episode.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from . import envelope, exceptions
from .body import Body
from .codec import Codec
from .envelope import Envelope, Form
from .escaping import shorten
from .lag import LagMeter
from .serializers import Message
from .statistics import Tally

__all__ = ["Intake"]

logger = logging.getLogger("channels_mpx.layer")

#: Seconds without garbage after which the next piece begins a new episode.
EPISODE = 60.0


#: Bytes of what the layer itself says to another process, whatever ``max_message_size`` is: the
#: text of an error has 4,096 characters, each of six bytes as JSON, and encryption adds a third.
OWN_SIZE = 2**16

_OWN_FORMS = frozenset({Form.CONTROL, Form.FAILURE})


class Intake:
    """Reads envelopes and bodies for the inbox, the groups and the worker queues.

    Args:
        codec: Decodes bodies.
        tally: The layer's counters.
        max_size: Bytes of the largest message that is taken, with its envelope.
    """

    def __init__(self, codec: Codec, tally: Tally, max_size: int = 8 * 2**20) -> None:
        self.codec = codec
        self.tally = tally
        #: How long messages took to come here; without those that waited in a worker's queue.
        self.lag = LagMeter()
        self._max_size = max_size
        self._last_garbage = -EPISODE
        #: Called on the reader when garbage comes for the first time in a while: where, and what.
        self.noticed: Callable[[str, str], object] = lambda where, reason: None

    def unwrap(self, payload: bytes, channel: bytes) -> Envelope | None:
        """Return the header of what came on ``channel``; None if it is garbage, or too large."""
        try:
            header = envelope.unwrap(payload)
            if len(payload) > self._max_size:
                self._require_own(header[0], len(payload))
            return header
        except exceptions.DecodingError as error:
            self.reject(channel, error)
            return None

    def _require_own(self, form: Form, size: int) -> None:
        """Refuse what is too large, unless it is what the layer itself says to another process."""
        if size > OWN_SIZE or form not in _OWN_FORMS:
            raise exceptions.DecodingError(
                problem=f"{size} bytes, larger than max_message_size ({self._max_size}) here"
            )

    def reject_form(self, form: Form, channel: bytes) -> None:
        """Count a well-formed envelope that came where its form does not belong."""
        self.reject(
            channel,
            exceptions.DecodingError(problem=f"an envelope of form {form.name} there"),
        )

    def body(self, payload: bytes, header: Envelope, channel: bytes) -> Body:
        """Return what mailboxes share, not decoded yet.

        Args:
            payload: What came.
            header: Its header.
            channel: Where in Redis it was found: the channel, or the key of the queue.
        """
        form, is_encrypted, _, start, address = header
        arrived, lag = time.monotonic(), self.lag
        if arrived >= lag.due and form is not Form.WORKER:
            lag.take(arrived, envelope.sent_at(payload))
        return Body(self.codec, payload, start, is_encrypted, arrived, address, channel)

    def open(self, body: Body, channel: str) -> Message | None:
        """Decode for one receiver; None if it is garbage, which counts once for all receivers."""
        try:
            return body.open()
        except exceptions.DecodingError as error:
            self.reject_body(body, channel, error)
            return None

    def reject_body(self, body: Body, channel: str, error: exceptions.DecodingError) -> None:
        """Count a body that cannot be opened: once, however many receivers it has."""
        if not body.is_reported:
            body.is_reported = True
            self.reject(channel, error)

    def reject(self, channel: bytes | str, error: exceptions.DecodingError) -> None:
        """Count a piece of garbage, and log it if it is the first for a while."""
        self.tally.malformed += 1
        now = time.monotonic()
        if now - self._last_garbage >= EPISODE:
            where = shorten(channel)
            logger.warning("channels_mpx: dropped a malformed message for %s: %s", where, error)
            self.noticed(where, str(error))
        self._last_garbage = now
