import os
import sys

from channels.layers import get_channel_layer

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
layer = get_channel_layer()
layer.sync.group_send("lobby", {"type": "chat.message", "text": sys.argv[1]})
