from channels.layers import get_channel_layer
from django.shortcuts import render


def bank(request, order):
    heard = None
    if request.method == "POST":
        multiplexer = get_channel_layer().multiplexer
        heard = multiplexer.sync.publish(f"payment.{order}", request.POST["answer"])
    return render(request, "bank.html", {"order": order, "heard": heard})
