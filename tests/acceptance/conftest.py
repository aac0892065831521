"""What all tests of the example need."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback stays loopback, whatever proxy this machine has."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
