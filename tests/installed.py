"""What an installer writes about us, for the Python processes of tests.

Entry points are found through metadata, which a mere checkout does not have.
"""

from __future__ import annotations

import re
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def write_metadata(site: Path) -> None:
    """Declare our pytest plugin in a directory; beside a real installation it changes nothing.

    Args:
        site: A directory that is going to be on ``PYTHONPATH``.
    """
    pattern = r'^\[project\.entry-points\.pytest11\]\n(\w+) = "([\w.]+)"$'
    entry = re.search(pattern, PYPROJECT.read_text(), re.MULTILINE)
    assert entry is not None
    metadata = site / "channels_mpx-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: channels_mpx\n")
    (metadata / "entry_points.txt").write_text(f"[pytest11]\n{entry[1]} = {entry[2]}\n")
