"""Sphinx's configuration."""

import sys
from pathlib import Path

# The checkout that this page belongs to, whether or not the package is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from channels_mpx import __version__

project = "channels_mpx"
author = "channels_mpx contributors"
project_copyright = f"2026, {author}"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
# Names of other projects are not linked: a build needs no network.
nitpick_ignore_regex = [
    (r"py:exc", r"ChannelFull|MessageTooLarge"),
    (
        r"py:.*",
        r"(asgiref|asyncio|channels|collections|contextlib|datetime|django|opentelemetry|typing)\..*",
    ),
]

html_theme = "furo"
html_title = f"channels_mpx {release}"
