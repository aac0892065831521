"""What tests of promises have in common."""

from __future__ import annotations

from channels_mpx import PromiseSubscription

#: Longer than any test, as the deadline of promises that are decided by something else.
LONG = 60


def is_empty(subscription: PromiseSubscription) -> bool:
    """Tell whether nothing is left of any promise."""
    return not subscription.outstanding and not subscription._ledger._outstanding
