"""How ``manage.py mpx`` shows values to people."""

from __future__ import annotations

from channels_mpx.management.formats import age, milliseconds, size


def test_sizes_and_times_have_units() -> None:
    """The largest unit that leaves a number above 1."""
    assert [size(n) for n in (0, 1023, 1024, 1536 * 1024, 5 * 2**30)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 GiB"
    ]  # fmt: skip
    assert [age(n) for n in (0.4, 59, 60, 7200, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]
    assert [milliseconds(s) for s in (None, 0.0002, 1.5)] == ["-", "0.20 ms", "1500.00 ms"]
