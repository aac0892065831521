"""Where WebSockets go: one consumer for each kind of page."""

from board.consumers import BoardConsumer
from chat.consumers import ChatConsumer
from django.urls import path, re_path
from home.consumers import NoSuchPlace
from payments.consumers import CheckoutConsumer
from rooms.consumers import RoomsConsumer

websocket_urlpatterns = [
    path("ws/chat/<str:room>/", ChatConsumer.as_asgi()),
    path("ws/rooms/", RoomsConsumer.as_asgi()),
    path("ws/board/", BoardConsumer.as_asgi()),
    path("ws/payments/", CheckoutConsumer.as_asgi()),
    re_path("", NoSuchPlace.as_asgi()),
]
