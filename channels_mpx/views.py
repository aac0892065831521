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
    """Answers with `Health` as JSON: status 200 if it is healthy, 503 if not.

    An alias that is not configured, or whose layer is not ours, is a 404; any method but GET and
    HEAD a 405. Nobody has to be logged in.

    Attributes:
        layer: The alias in ``CHANNEL_LAYERS``; None: what the query says (``?layer=chat``), or
            ``default``.
        patience: See `MultiplexedChannelLayer.health`.
    """

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
        layer = channel_layers[alias] if alias in channel_layers else None
        if isinstance(layer, MultiplexedChannelLayer):
            health = layer.health(self.patience)
            status = 200 if health.is_healthy else 503
            answer = JsonResponse({"layer": alias, **asdict(health)}, status=status)
        else:
            problem = "No layer of channels_mpx is configured under this alias."
            answer = JsonResponse({"is_healthy": False, "problems": [problem]}, status=404)
        answer["Cache-Control"] = "no-store"
        return answer


class SyncHealthView(_HealthView):
    __doc__ = f"{_HealthView.__doc__}\n    This one is for WSGI."

    def get(self, request: HttpRequest) -> HttpResponse:
        """Answer."""
        return self._answer(request)


class HealthView(_HealthView):
    __doc__ = (
        f"{_HealthView.__doc__}\n    This one is for ASGI: it answers when all threads are busy."
    )

    async def get(self, request: HttpRequest) -> HttpResponse:
        """Answer."""
        return self._answer(request)


#: `HealthView` as a view.
health = HealthView.as_view()

#: `SyncHealthView` as a view.
health_sync = SyncHealthView.as_view()
