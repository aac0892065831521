"""Settings of the example: no database, no sessions, one channel layer."""

import os

from django.core.management.utils import get_random_secret_key

SECRET_KEY = os.environ.get("SECRET_KEY") or get_random_secret_key()
DEBUG = os.environ.get("DEBUG", "1") == "1"
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "daphne",  # first, so that `manage.py runserver` speaks ASGI
    "channels",
    "channels_mpx",  # for `manage.py mpx` and the checks of CHANNEL_LAYERS
    "django.contrib.staticfiles",
    "home",
    "chat",
    "rooms",
    "board",
    "payments",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["home.layer.context"]},
    }
]
DATABASES: dict[str, dict[str, str]] = {}

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
STATIC_URL = "static/"
USE_TZ = True

# "memory://" needs no server and stays within one process; any Redis URL joins processes.
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_mpx.MultiplexedChannelLayer",
        "CONFIG": {
            "hosts": [os.environ.get("REDIS_URL") or "memory://"],
            "timeout": 3.0,  # seconds without Redis until somebody is told "not delivered"
        },
    }
}

# The payments tell what becomes of each order.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "{asctime} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {"payments": {"handlers": ["stderr"], "level": "INFO"}},
}
