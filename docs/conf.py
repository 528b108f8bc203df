"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]  # config_reference.py, and jaxrec where it is not installed

import config_reference  # noqa: E402

# Not committed: the page is a function of the schema's modules alone, so every build writes it.
config_reference.PAGE.write_text(config_reference.page(*config_reference.MODULES), encoding="utf-8")

project = "jaxrec"
copyright = "the jaxrec authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "jaxrec"

myst_heading_anchors = 3
napoleon_google_docstring = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # the repr of a default config would fill a page
autodoc_typehints = "description"
