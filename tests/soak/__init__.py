"""A soak: several processes, numbered messages of every kind, and a random fault every 3 s.

python -m tests.soak MINUTES [--seed N]

At the end every message was delivered once, or lost inside of an announced gap, or counted as
dropped; descriptors, threads and memory are flat. `docs/explanation/soak.md` has the method.
"""
