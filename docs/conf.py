"""Settings of the documentation: ``pip install -e '.[docs]' && sphinx-build -W docs docs/_build/html``.

The examples of the gallery run as they are built, a few minutes together; ``-D plot_gallery=0`` leaves them out. Nothing is
fetched from the network.
"""

import os
import re
import sys
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
warnings.filterwarnings("ignore", message=".*FigureCanvasAgg is non-interactive.*")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project, author = "cfexplain", "The cfexplain developers"
copyright = author
version = release = installed_version("cfexplain")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
    "site_parts",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "examples"]
templates_path = ["_templates"]
default_role = "py:obj"  # `name` in a docstring is a link where there is something of that name

# ------------------------------------------------------------------------------------------------------- Markdown pages
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4  # the anchors that GitHub makes, too
suppress_warnings = [
    # pages are written for GitHub as well, where a title of level 1 may be followed by one of level 3
    "myst.header",
]

# --------------------------------------------------------------------------------------------------------- API reference
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections say types and shapes
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
add_module_names = False
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True

# --------------------------------------------------------------------------------------------------------------- gallery
# Examples on data that cannot be bundled run where $CFEXPLAIN_DATA has the file, and are shown as code elsewhere.
NEEDS = {"faces.py": "smiles_64.npz"}
DATA = [Path(os.environ["CFEXPLAIN_DATA"])] if os.environ.get("CFEXPLAIN_DATA") else []
DATA.append(Path.home() / ".cache" / "cfexplain")
NOT_RUN = [name for name, file in NEEDS.items() if not any((folder / file).is_file() for folder in DATA)]

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "/(?!(" + "|".join(map(re.escape, NOT_RUN)) + ")$)" if NOT_RUN else "/",
    "within_subsection_order": "site_parts.in_reading_order",
    "abort_on_example_error": True,
    "capture_repr": ("_repr_html_",),
    "download_all_examples": False,
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": False,
    "min_reported_time": 0,
    "plot_gallery": "True",
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}

# ------------------------------------------------------------------------------------------------------------------ HTML
html_theme = "pydata_sphinx_theme"
html_title = f"cfexplain {version}"
html_static_path = ["_static"]
html_css_files = ["cfexplain.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "cfexplain"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": False,
    "use_edit_page_button": False,
}
html_sidebars = {"index": [], "which_method": [], "changelog": []}
