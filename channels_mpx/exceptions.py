"""Every error of channels_mpx, one tree.

    MPXError
    ├── ConfigurationError (ValueError)          the settings are wrong
    ├── InvalidArgument                          a verb cannot use what it was given
    │   ├── NotCallable (TypeError)              a callback that Python cannot call
    │   └── InvalidTimeout (ValueError)          no number of seconds
    ├── InvalidName (ValueError)                 a name cannot be used
    │   └── ReservedName                         it lies under the layer's own prefix
    ├── NotAuthorized (PermissionError)          the consumer does not allow this subscription
    ├── ChannelError                             a channel cannot do what was asked
    │   ├── UnknownChannel                       nobody made it, or its consumer is gone
    │   ├── ForeignChannel                       it belongs to another process
    │   ├── OwnedChannel                         its consumer takes the messages itself
    │   ├── MembershipFailed                     its owner could not do what it was asked to
    │   ├── NoListener                           nobody is there to get a request
    │   └── NotAGroupMember                      a worker channel cannot join a group
    ├── MessageError                             a message cannot travel
    │   ├── EncodingError (TypeError)            the sender's doing: a value has no wire form
    │   └── DecodingError (ValueError)           the wire's doing: bytes are not a message
    ├── LinkError (ConnectionError)              Redis could not be spoken to
    │   ├── LinkRefused                          one side does not accept the other; waiting is no help
    │   ├── LinkUnavailable (TimeoutError)       no link before the deadline; nothing was sent
    │   ├── NotConfirmed (TimeoutError)          no answer before the deadline
    │   ├── LinkLost                             lost while waiting; it may have been carried out
    │   │   └── ConnectionInterrupted            told to ``on_disconnect``: nobody has asked anything
    │   ├── Desync                               Redis answered what nobody asked
    │   └── CommandRefused                       Redis answered with an error
    ├── ClosedError                              the object was closed
    │   └── SubscriptionIsClosed
    │       └── SubscriptionOverflow             by ``overflow="close"``
    ├── InactiveSubscription                     Redis has not confirmed the subscription
    ├── SubscriptionHasCallback (RuntimeError)   its messages go to ``on_message``
    ├── PromiseError                             a promise was not kept
    │   ├── PromiseTimeout (TimeoutError)        nothing came before the deadline
    │   └── PromiseInterrupted                   the link was lost while it was outstanding
    │       └── PromiseCancelled                 whoever made it has given it up
    ├── NotARequest (ValueError)                 a reply to what was no request
    ├── RemoteError                              whoever got the request has failed
    ├── RequestTimeout (TimeoutError)            no reply before the deadline
    └── SyncCallFromAsync (RuntimeError)         ``layer.sync`` used on a running event loop

The text of an error is the docstring of its class, filled with its attributes: the reference
page, the traceback and the source say the same sentence. No text ever holds a password, and none
holds a line break or anything else that is not printable, whoever chose it: attributes have it as
it came.
"""

from __future__ import annotations

import sys
from inspect import cleandoc

from .escaping import escape

__all__ = [
    "ChannelError",
    "ClosedError",
    "CommandRefused",
    "ConfigurationError",
    "ConnectionInterrupted",
    "DecodingError",
    "Desync",
    "EncodingError",
    "ForeignChannel",
    "InactiveSubscription",
    "InvalidArgument",
    "InvalidName",
    "InvalidTimeout",
    "LinkError",
    "LinkLost",
    "LinkRefused",
    "LinkUnavailable",
    "MPXError",
    "MembershipFailed",
    "MessageError",
    "NoListener",
    "NotAGroupMember",
    "NotARequest",
    "NotAuthorized",
    "NotCallable",
    "NotConfirmed",
    "OwnedChannel",
    "PromiseCancelled",
    "PromiseError",
    "PromiseInterrupted",
    "PromiseTimeout",
    "RemoteError",
    "RequestTimeout",
    "ReservedName",
    "SubscriptionHasCallback",
    "SubscriptionIsClosed",
    "SubscriptionOverflow",
    "SyncCallFromAsync",
    "UnknownChannel",
]


if sys.version_info < (3, 11):
    # There `except asyncio.TimeoutError`, which RedisMPX's users write, means another class.
    from asyncio import TimeoutError as _AsyncioTimeout
else:

    class _AsyncioTimeout:
        """The builtin TimeoutError is asyncio's."""


class MPXError(Exception):
    """Something in channels_mpx went wrong."""

    def __init__(self, **attributes: object) -> None:
        self._names = tuple(attributes)
        for name, value in attributes.items():
            setattr(self, name, value)
        super().__init__(str(self))

    def __str__(self) -> str:
        text = " ".join(cleandoc(type(self).__doc__ or "").split())
        return escape(text.format(**{name: getattr(self, name) for name in self._names}))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), {name: getattr(self, name) for name in self._names})


def _rebuild(kind: type[MPXError], attributes: dict[str, object]) -> MPXError:
    """Make an error again from what ``pickle`` and ``copy`` carried."""
    return kind(**attributes)


class ConfigurationError(MPXError, ValueError):
    """channels_mpx is configured wrongly: {problem}"""


class InvalidArgument(MPXError):
    """{name} must be {required}, not {value!r}."""


class NotCallable(InvalidArgument, TypeError):
    """{name} must be something that can be called, or None, not {value!r}."""


class InvalidTimeout(InvalidArgument, ValueError):
    """{name} must be a number of seconds, 0 or more{alternative}, not {value!r}."""


class InvalidName(MPXError, ValueError):
    """{name!r} is not a name that can be used here: {problem}"""


class ReservedName(InvalidName):
    """{name!r} lies under the layer's own prefix {prefix!r}; choose a name outside it."""


class NotAuthorized(MPXError, PermissionError):
    """{consumer} does not allow the {kind} {name!r}: its authorize_subscription() said no."""


class ChannelError(MPXError):
    """The channel {channel!r} cannot do that."""


class UnknownChannel(ChannelError):
    """No consumer owns the channel {channel!r}: it was never made here, or its consumer is gone."""


class ForeignChannel(ChannelError):
    """The channel {channel!r} belongs to another process; only its own process can receive from
    it. Call receive() with a name that new_channel() returned in this process."""


class OwnedChannel(ChannelError):
    """The channel {channel!r} belongs to a consumer that takes its messages itself; handle them
    there, or make another channel with new_channel() to call receive() with."""


class MembershipFailed(ChannelError):
    """The process that owns the channel {channel!r} could not do it: {text}"""

    text: str


class NoListener(ChannelError):
    """Nobody is there to get a request to {channel!r}: its consumer or its process is gone, or
    nobody reads this worker channel. The request was not handled."""


class NotAGroupMember(ChannelError):
    """The worker channel {channel!r} cannot be in a group: its messages go to exactly one reader.
    Let the consumer that the message is for join the group with its own channel_name, or send to
    the worker channel directly with send(). A test makes itself a channel that can be a member with
    `await layer.new_channel()`."""


class MessageError(MPXError):
    """A message cannot travel."""


class EncodingError(MessageError, TypeError):
    """The message cannot be encoded at {path}: {problem}"""


class DecodingError(MessageError, ValueError):
    """What arrived is not a message: {problem}"""

    problem: str


class LinkError(MPXError, ConnectionError):
    """Redis at {address} could not be spoken to."""


class LinkRefused(LinkError):
    """Redis at {address} cannot be used: {reason}"""

    address: str
    reason: str
    #: Redis's own code; None if it has not said anything.
    code: str | None = None


class NotConfirmed(LinkError, TimeoutError):
    """Redis at {address} has not confirmed {what} within {seconds} s."""


class LinkUnavailable(LinkError, TimeoutError):
    """No link to Redis at {address} within {seconds} s, nothing was sent. Last reason: {reason}"""

    address: str
    reason: str
    #: Redis's own code; None if it has not said anything.
    code: str | None = None


class LinkLost(LinkError):
    """The link to Redis at {address} was lost while waiting for an answer ({reason}); what was
    asked may or may not have been carried out."""


class ConnectionInterrupted(LinkLost):
    """The connection to Redis at {address} was lost ({reason}) and is being made again; what is
    published meanwhile may be missing."""


class Desync(LinkError):
    """Redis at {address} answered what nobody asked: {problem}"""


class CommandRefused(LinkError):
    """Redis at {address} refused {command}: {text}"""

    address: str
    command: str
    text: str

    @property
    def code(self) -> str:
        """The first word of Redis's error: ``NOPERM``, ``READONLY``, ``OOM``, ``ERR``, …"""
        return self.text.partition(" ")[0]


class ClosedError(MPXError):
    """{what} is closed."""


class SubscriptionIsClosed(ClosedError):
    """The subscription {what} is closed; make a new one."""


class SubscriptionOverflow(SubscriptionIsClosed):
    """The subscription {what} was closed because {waiting} messages waited and nobody took them;
    make a new one, read faster, or choose another overflow."""


class InactiveSubscription(MPXError):
    """Redis has not confirmed the subscription to {name!r} yet: wait for its activation."""


class SubscriptionHasCallback(MPXError, RuntimeError):
    """The messages of {what} go to its on_message; make it without one to read them yourself."""


class PromiseError(MPXError):
    """The promise {name!r} was not kept."""


class PromiseTimeout(PromiseError, TimeoutError, _AsyncioTimeout):
    """Nothing was published on {name!r} within {seconds} s of making the promise."""


class PromiseInterrupted(PromiseError):
    """The promise {name!r} was interrupted, a message for it may have been missed: {reason}"""


class PromiseCancelled(PromiseInterrupted):
    """The promise {name!r} was given up: {reason}"""


class NotARequest(MPXError, ValueError):
    """The event {type!r} says nothing about where a reply goes: it was sent with send() or
    group_send(), not with request(). Pass the very event that the handler got."""


class RemoteError(MPXError):
    """Whoever got the request to {channel!r} has failed: {type}: {text}"""

    type: str
    text: str


class RequestTimeout(MPXError, TimeoutError):
    """No reply to the request to {channel!r} within {seconds} s; it may or may not have been
    handled."""


class SyncCallFromAsync(MPXError, RuntimeError):
    """The blocking {verb}() was called on a thread that runs an event loop and would block it;
    await the verb of the same name (aclose() for close()) here."""
