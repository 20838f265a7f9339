"""How the pages are built; `tools/docs.py` puts their sources together first."""

import importlib.metadata
import os
import pkgutil

import doggos_helpers
import doggos_sample

project = "Scaling out with Ray"
author = "The doggos tutorial"
copyright = "its authors, Apache-2.0"
release = importlib.metadata.version("doggos-helpers")

extensions = [
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_generated", "series/download"]

# Notebooks are executed before, by `make tutorial` or CI: never here.
nb_execution_mode = "off"
nb_execution_timeout = -1
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_ipywidgets_js = {}  # else widgets load a script from a CDN; a figure stands for each
nb_number_source_lines = False
suppress_warnings = ["mystnb.unknown_mime_type"]  # of widgets, for the same reason

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline", "fieldlist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Before autodoc does, with TYPE_CHECKING on, which FastAPI and pydantic don't survive.
for package in (doggos_helpers, doggos_sample):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Targets inside this site alone: other packages' are not looked up, so that the pages
# build without a network.
nitpick_ignore_regex = [("py:.*", r"(?!doggos_).*")]
nitpick_ignore = [("py:class", "doggos_sample.canvas.Drawing")]  # a type's other name
default_role = "code"  # a name in backticks, in docstrings
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["doggos.css"]
html_js_files = ["doggos.js"]
html_sidebars = {"index": [], "scaling-out": []}  # nothing below them
html_domain_indices = html_use_index = False
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_theme_options = {
    "logo": {"text": project},
    "navigation_with_keys": False,
    "back_to_top_button": False,
    "collapse_navigation": True,
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "show_toc_level": 2,
    "show_prev_next": True,
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "secondary_sidebar_items": ["page-toc"],
}
html_context = {"default_mode": "auto"}
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True

if os.environ.get("DOGGOS_DOCS_URL"):  # of the host, for a site map and canonical links
    html_baseurl = os.environ["DOGGOS_DOCS_URL"]
