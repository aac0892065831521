"""Where WebSockets go."""

from django.urls import path, re_path

from .consumers import ChatConsumer, NoSuchPlace

websocket_urlpatterns = [
    path("ws/rooms/<str:room>/", ChatConsumer.as_asgi()),
    re_path("", NoSuchPlace.as_asgi()),
]
