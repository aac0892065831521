"""The example's Django project: settings, URLs, ASGI application."""

import sys
from pathlib import Path

# An installed channels_mpx is preferred; without one, the checkout around this folder serves.
sys.path.append(str(Path(__file__).resolve().parents[2]))
