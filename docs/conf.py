"""Sphinx configuration. Build with ``sphinx-build -W --keep-going -b html docs docs/_build/html``."""

from importlib.util import find_spec
from pathlib import Path

from docutils import nodes

import dhr_refine

project = "dhr_refine"
author = "The dhr_refine developers"
copyright = author
version = release = dhr_refine.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**/README.*", "**/GALLERY_HEADER.*"]
default_role = "py:obj"  # single backticks in docstrings link to what they name

# Markdown
myst_enable_extensions = ["colon_fence", "dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

# API pages: signatures without types, which the docstrings give with their shapes
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
numpydoc_show_class_members = False

# Equations without a network: the one file of MathJax that needs no fonts, from a package on PyPI
_mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / "tex-svg.js"
mathjax_path = _mathjax.name

# Pages
html_theme = "furo"
html_title = f"dhr_refine {release}"
html_static_path = ["_static", str(_mathjax)]
html_css_files = ["custom.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e4f", "color-brand-content": "#0b6e4f"},
    "dark_css_variables": {"color-brand-primary": "#5fd3a6", "color-brand-content": "#5fd3a6"},
}
pygments_dark_style = "github-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Gallery: every examples/plot_*.py runs in the build, other scripts there are left alone
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "ignore_pattern": r"(^|[\\/])(?!plot_)[^\\/]+\.py$",
    "nested_sections": False,
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": "gallery/backreferences",
    "doc_module": ("dhr_refine",),
    "reference_url": {"dhr_refine": None},
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,  # its page loads scripts from elsewhere
    "plot_gallery": True,
    "matplotlib_animations": False,
    "first_notebook_cell": '# Needs: pip install ".[demo]" in a clone of dhr_refine\n%matplotlib inline',
}


def keep_figures_together(app, doctree):
    """Short cells with digits do not wrap: no number parts from its unit or its error."""
    for cell in doctree.findall(nodes.entry):
        text = cell.astext()
        if len(text) <= 30 and any(letter.isdigit() for letter in text):
            cell["classes"].append("figure")


def setup(app):
    """Register what the pages need beyond the extensions."""
    app.connect("doctree-read", keep_figures_together)
