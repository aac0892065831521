"""The Django app: the command ``manage.py mpx`` and the system checks. The layer needs neither."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register

from . import checks

__all__ = ["MultiplexedConfig"]


class MultiplexedConfig(AppConfig):  # type: ignore[misc, unused-ignore]
    """Makes ``channels_mpx`` in ``INSTALLED_APPS`` bring its command and its checks along."""

    name = "channels_mpx"
    label = "channels_mpx"
    verbose_name = "Channel layers over one Redis connection"

    def ready(self) -> None:
        """Register the system checks, under the tag ``channels``."""
        register(checks.check_settings, checks.TAG)
        register(checks.check_deployment, checks.TAG, deploy=True)
        register(checks.check_servers, checks.TAG, deploy=True)
