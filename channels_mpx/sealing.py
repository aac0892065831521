"""Bodies into envelopes: what is encrypted is bound to its envelope and to its place in Redis.

Whoever may publish, and has no key, can still publish again what he has seen. The name under which
a message is published and the header of its envelope are part of what is authenticated, so it is
refused in another group, for another consumer, in another inbox or queue, and with another return
address.
"""

from __future__ import annotations

from . import envelope
from .codec import Codec
from .envelope import Form

__all__ = ["enclose"]


def enclose(
    codec: Codec,
    form: Form,
    body: bytes,
    name: bytes,
    target: bytes | None = None,
    address: bytes = b"",
) -> bytes:
    """Put a body into an envelope, encrypted if there are keys.

    Args:
        codec: Encrypts.
        form: What it is.
        body: What `Codec.serialize` returned.
        name: Where in Redis it is going: a channel, or the key of a queue.
        target: See `envelope.wrap`.
        address: Of a request: where the reply goes.
    """
    encrypts = codec.encrypts
    inside = b"" if encrypts else body
    if address:
        payload = envelope.wrap_request(form, inside, encrypts, target, address)
    else:
        payload = envelope.wrap(form, inside, encrypts, target)
    # Without a body it is the header.
    return payload + codec.seal(body, name + payload) if encrypts else payload
