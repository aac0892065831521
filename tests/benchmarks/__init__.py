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
* Rows with consumers measure for the same time instead of the same number: the sender keeps as many
  messages under way for every peer (:mod:`tests.benchmarks.feed`), then stops, and what has not
  come when nothing comes any more counts as dropped.
* Every text that a consumer sends, every byte that a WebSocket client reads and every answer to a
  request is compared with what it has to be; consumers that got different numbers are an error.
* All peers run the same consumer class; only its base differs, where the mixin is measured.

What each row measures is written in its function in :mod:`tests.benchmarks.measures_layer`,
:mod:`tests.benchmarks.measures_sync`, :mod:`tests.benchmarks.measures_consumers`,
:mod:`tests.benchmarks.measures_sockets`, :mod:`tests.benchmarks.measures_requests` and
:mod:`tests.benchmarks.measures_bare`, and in short in :mod:`tests.benchmarks.rows`, which is
printed below the tables.
"""
