import struct
import time

import msgspec
import redis


def speak(server: redis.Redis, group: str, message: dict) -> int:
    header = struct.pack(">BBQ", 1, 1, time.time_ns() // 1000)
    return server.publish(f"mpx:group:{group}", header + msgspec.msgpack.encode(message))
