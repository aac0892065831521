"""What a system check finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core import checks as django_checks
from django.test import override_settings

from tests.django.mpx import BACKEND

Check = Callable[..., list[django_checks.CheckMessage]]


def found(check: Check, **layers: Any) -> list[tuple[str, str, str]]:
    """Return id, place and text of what a check finds in a CHANNEL_LAYERS with these aliases."""
    with override_settings(CHANNEL_LAYERS=layers):
        messages = check(app_configs=None, databases=None)
    assert all(message.hint for message in messages)
    return [
        ((message.id or "").removeprefix("channels_mpx."), str(message.obj), message.msg)
        for message in messages
    ]


def ids(check: Check, *hosts: Any, **config: Any) -> list[str]:
    """Return the ids of what a check finds in one layer of ours."""
    entry = {"BACKEND": BACKEND, "CONFIG": {"hosts": list(hosts), **config}}
    return [message[0] for message in found(check, default=entry)]
