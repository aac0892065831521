"""Benchmarks of channels_mpx beside the other channel layers.

Run with ``python -m tests.benchmarks`` (``--help`` lists the options) from the root of the
checkout. Every layer does the same work, in one run, on one ``redis-server`` that the benchmark
starts for itself.

How fairness is kept:

* A *cell* is one row measured for one peer on one event loop. Each cell runs in a fresh
  interpreter (:mod:`tests.benchmarks.cell`), with a time limit, on a flushed server.
* Cells are interleaved: all peers of a row take turns before the row is repeated, and the order of
  the turns rotates, so that a machine that slows down slows down everybody. The median is reported.
* All peers send the same message, the same number of times, after the same warm-up, with the same
  capacity (so large that no layer drops for it). The garbage collector runs once before the clock
  starts and then keeps the interpreter's defaults.
* A slow peer is stopped at the end of a window, and its rate is what it did until then.
* A cell that fails is reported with the exception's type and text.

What each row measures is written in its function in :mod:`tests.benchmarks.measures_layer`,
:mod:`tests.benchmarks.measures_sync` and :mod:`tests.benchmarks.measures_bare`, and in short in
:mod:`tests.benchmarks.rows`, which is printed below the tables.
"""
