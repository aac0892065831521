"""Views for load balancers and monitors: is this process's layer well?

They ask nobody: not Redis, and no other process. So they answer at once, whatever has happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views import View

from .health import PATIENCE
from .layer import MultiplexedChannelLayer

__all__ = ["HealthView", "SyncHealthView", "health", "health_sync"]


class _HealthView(View):  # type: ignore[misc, unused-ignore]
    """What `HealthView` and `SyncHealthView` share: everything but ``get``."""

    http_method_names = ("get", "head")
    layer: str | None = None
    patience: float = PATIENCE

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., Any]:
        """Return the view; ``layer`` and ``patience`` may be given."""
        view: Any = super().as_view(**initkwargs)
        view.login_required = False  # for Django's LoginRequiredMiddleware
        return view  # type: ignore[no-any-return]

    def _answer(self, request: HttpRequest) -> HttpResponse:
        alias = self.layer or request.GET.get("layer", DEFAULT_CHANNEL_LAYER)
        problem, status = "No layer of channels_mpx is configured under this alias.", 404
        try:
            layer = channel_layers[alias] if alias in channel_layers else None
        except Exception:  # a backend may raise anything, and who asks may be a stranger
            problem, status = "The settings of this layer are wrong; manage.py check says how.", 503
            layer = None
        if isinstance(layer, MultiplexedChannelLayer):
            health = layer.health(self.patience)
            status = 200 if health.is_healthy else 503
            answer = JsonResponse({"layer": alias, **asdict(health)}, status=status)
        else:
            answer = JsonResponse({"is_healthy": False, "problems": [problem]}, status=status)
        # Django logs each 5xx as an error, and an error is a mail to ADMINS: one for each time that a
        # load balancer asks. The layer itself has logged what is wrong, once, or the answer says it.
        answer._has_been_logged = status == 503
        answer["Cache-Control"] = "no-store"
        return answer


class SyncHealthView(_HealthView):
    """Answers with this process's `Health` as JSON, for WSGI.

    The fields are ``layer``, the alias, and those of `Health`: ``is_healthy``, ``problems``,
    ``state``, ``since``, ``epoch``, ``wanted``, ``active``, ``ping_rtt``, ``probe_rtt``, ``lag``,
    ``waiting`` and ``deepest``. The status is 200 if the layer is healthy, 503 if it is not healthy
    or its settings are wrong, and 404 if there is no such alias or its layer is another backend's.
    With wrong settings, and with 404, there are only ``is_healthy``, false, and ``problems``. No
    answer may be kept: each has ``Cache-Control: no-store``.

    Neither Redis nor another process is asked, whatever state they are in, and nothing is
    connected: an answer needs no I/O. Django does not log a 503 of this view, and mails nobody.

    GET and HEAD are allowed and need no CSRF token. Any other method is a 405; if it is one that
    Django's CSRF middleware guards, and has no token, that middleware's 403 comes first. Nobody
    has to be logged in.

    Attributes:
        layer: The alias in ``CHANNEL_LAYERS``; None: what the query says (``?layer=chat``), or
            ``default``.
        patience: See `MultiplexedChannelLayer.health`.
    """

    def get(self, request: HttpRequest) -> HttpResponse:
        """Answer."""
        return self._answer(request)


class HealthView(_HealthView):
    """Answers with this process's `Health` as JSON, for ASGI.

    The fields are ``layer``, the alias, and those of `Health`: ``is_healthy``, ``problems``,
    ``state``, ``since``, ``epoch``, ``wanted``, ``active``, ``ping_rtt``, ``probe_rtt``, ``lag``,
    ``waiting`` and ``deepest``. The status is 200 if the layer is healthy, 503 if it is not healthy
    or its settings are wrong, and 404 if there is no such alias or its layer is another backend's.
    With wrong settings, and with 404, there are only ``is_healthy``, false, and ``problems``. No
    answer may be kept: each has ``Cache-Control: no-store``.

    Neither Redis nor another process is asked, whatever state they are in, and nothing is
    connected: an answer needs no I/O and no thread, so it also comes when all threads are busy.
    Django does not log a 503 of this view, and mails nobody.

    GET and HEAD are allowed and need no CSRF token. Any other method is a 405; if it is one that
    Django's CSRF middleware guards, and has no token, that middleware's 403 comes first. Nobody
    has to be logged in.

    Attributes:
        layer: The alias in ``CHANNEL_LAYERS``; None: what the query says (``?layer=chat``), or
            ``default``.
        patience: See `MultiplexedChannelLayer.health`.
    """

    async def get(self, request: HttpRequest) -> HttpResponse:
        """Answer."""
        return self._answer(request)


#: `HealthView` as a view.
health = HealthView.as_view()

#: `SyncHealthView` as a view.
health_sync = SyncHealthView.as_view()
