"""What other processes complain of."""

from __future__ import annotations

from tests.children import complaints
from tests.layers import run_script

SLOW = """
    import asyncio, logging, sys, time

    logging.basicConfig(format=sys.argv[1])

    async def main():
        asyncio.get_running_loop().call_soon(time.sleep, 0.2)
        await asyncio.sleep(0)

    asyncio.run(main())
"""


def test_slow_callbacks_are_no_complaint() -> None:
    """A machine that is busy makes any callback slow, and development mode tells it, in any form."""
    for form in ("%(message)s", "%(levelname)s:%(name)s: %(message)s"):
        run_script(SLOW, form)


def test_everything_else_is_a_complaint() -> None:
    """What is told before and after it stays."""
    slow = "Executing <Handle f() created at a.py:1> took 0.123 seconds\n"
    assert complaints(slow) == ""
    assert complaints(f"Task was destroyed\n{slow}bad\n{slow}") == "Task was destroyed\nbad\n"
    assert complaints("Executing a plan\n") == "Executing a plan\n"
