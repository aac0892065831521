import os

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
pages = get_asgi_application()  # sets Django up, so it comes before our own modules

from chat.consumers import ChatConsumer  # noqa: E402
from pay.consumers import PayConsumer  # noqa: E402

sockets = URLRouter([path("ws/", ChatConsumer.as_asgi()), path("ws/pay/", PayConsumer.as_asgi())])
application = ProtocolTypeRouter({"http": pages, "websocket": AllowedHostsOriginValidator(sockets)})
