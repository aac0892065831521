"""The checkout, and the bank: plain synchronous views."""

import re

from channels.layers import get_channel_layer
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from channels_mpx.exceptions import LinkError

from .consumers import PATIENCE

ORDER = re.compile("[0-9a-f]{8}")
ANSWERS = ("approved", "declined")


def checkout(request: HttpRequest) -> HttpResponse:
    """Show what is to be paid. The rest happens over the page's WebSocket."""
    return render(request, "payments/checkout.html", {"patience": PATIENCE})


def bank(request: HttpRequest, order: str) -> HttpResponse:
    """Ask whoever plays the bank, and publish the answer: that keeps the promise."""
    answer = request.POST.get("answer")
    if not ORDER.fullmatch(order) or answer not in (None, *ANSWERS):
        raise Http404("There is no such order.")
    context: dict[str, object] = {"order": order, "answer": answer}
    status = 200
    if answer is not None:
        try:
            multiplexer = get_channel_layer().multiplexer
            context["listeners"] = multiplexer.sync.publish(f"payment.{order}", answer)
        except LinkError as error:
            context["problem"] = str(error)
            status = 503
    return render(request, "payments/bank.html", context, status=status)
