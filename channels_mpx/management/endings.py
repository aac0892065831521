"""How a command ends that cannot go on: in one sentence, with a status, and with all in order."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from django.core.management.base import CommandError

from channels_mpx.exceptions import MPXError

from .console import Unwritable

__all__ = ["in_one_sentence", "terminable"]

#: The statuses of a command that a signal has ended: 128 and its number, as shells have it.
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


@contextlib.contextmanager
def in_one_sentence(has_own_stdout: bool) -> Iterator[None]:
    """Turn what may go wrong into what Django shows to people.

    Args:
        has_own_stdout: Whether the output is the process's own stdout, and no stream of a caller.
    """
    try:
        yield
    except MPXError as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        raise CommandError("Interrupted.", returncode=INTERRUPTED) from None
    except Unwritable as error:
        if has_own_stdout:
            _give_up_stdout()
        raise CommandError(str(error)) from error
    except BrokenPipeError:
        if not has_own_stdout:
            raise  # it belongs to whoever called us, as the process's own stdout does then
        # Whoever read our output has enough of it, as `head` has.
        _give_up_stdout()
        raise SystemExit(1) from None


def _give_up_stdout() -> None:
    """Let nothing be flushed at exit that cannot be (Python's `signal`, Note on SIGPIPE)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM end the command as Ctrl-C does: what was begun, such as a screen, is ended.

    Where others have taken care of the signal, or in a thread that gets none, nothing changes.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
    raise SystemExit(TERMINATED)
