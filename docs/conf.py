"""Configuration of the documentation site, built by scripts/docs."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_extensions"), str(ROOT / "release")]

from xstream.version import __version__  # noqa: E402

project = "xstream"
author = "The xstream authors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "generated", "diagrams", "links"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["requirements.txt"]
nitpicky = False

myst_enable_extensions = ["deflist", "fieldlist", "attrs_block"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# Quotes, but not dashes: "--json" isn't to become a dash.
smartquotes_action = "qe"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
add_module_names = False

html_theme = "furo"
html_title = "xstream {}".format(__version__)
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"footer_icons": []}
pygments_style = "default"
pygments_dark_style = "github-dark"
