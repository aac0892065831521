"""The layer's numbers for monitoring systems; each module needs an extra of its own.

prometheus      pip install channels_mpx[prometheus]
opentelemetry   pip install channels_mpx[opentelemetry]
"""
