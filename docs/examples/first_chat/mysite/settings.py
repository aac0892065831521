import os

SECRET_KEY = "change me before anybody else can reach this"
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]

INSTALLED_APPS = [
    "daphne",  # first, so that runserver speaks WebSocket
    "channels",
    "channels_mpx",  # for manage.py mpx, and its system checks
    "chat",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
ROOT_URLCONF = "mysite.urls"
ASGI_APPLICATION = "mysite.asgi.application"
USE_TZ = True

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_mpx.MultiplexedChannelLayer",
        "CONFIG": {"hosts": [os.environ.get("REDIS_URL", "memory://")]},
    }
}
