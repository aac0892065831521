"""The smallest Django that the tests need."""

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["channels"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_mpx.MultiplexedChannelLayer",
        "CONFIG": {"hosts": ["memory://"]},
    }
}
USE_TZ = True
