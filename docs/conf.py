"""Sphinx configuration."""

import slide

project = "slide"
author = "the slide developers"
copyright = "2026, the slide developers"
release = slide.__version__
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "py:obj"
nitpicky = False

autosummary_generate = True
# What a module's page shows is what its __all__ names, wherever it is defined.
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_default_options = {"show-inheritance": True}
autodoc_member_order = "bysource"
# numpydoc's "Parameters" state the types; in the signature they would be said twice.
autodoc_typehints = "none"
# The class template lists the methods.
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = f"slide {version}"
html_theme_options = {"navigation_with_keys": False, "show_prev_next": False}
html_show_sourcelink = False
