"""A small Sphinx extension: what the documentation's settings need functions for."""

import re
from pathlib import Path

ORDER = ["helix.py", "digits.py", "photographs.py", "faces.py", "tables.py", "loans.py", "regression.py",
         "captum_comparison.py", "own_generator.py"]


def in_reading_order(name):
    """What sphinx-gallery sorts the examples by."""
    return ORDER.index(Path(name).name) if Path(name).name in ORDER else len(ORDER)


def written_elsewhere(app, what, name, obj, skip, options):
    """Leave out what a class inherits from scikit-learn, torch or Captum: it is described there."""
    code = obj.fget if isinstance(obj, property) else obj
    module = getattr(code, "__module__", None) or "cfexplain"
    return True if not module.startswith("cfexplain") else None


def as_plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with formulas: p(t|x'), (B, *shape) and names_ in them are not reStructuredText's marks."""
    for i, line in enumerate(lines):
        parts = re.split(r"(``.*?``|`[^`]*`)", line)  # code and links stay as they are
        lines[i] = "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text):
    text = re.sub(r"(?<!\\)\|", r"\|", text)
    text = re.sub(r"(?<![*\w\\])\*(?=[\w ]+[),])", r"\*", text)
    return re.sub(r"(?<=\w)_(?=[^\w]|$)", r"\_", text)


def to_the_gallery(app, name, source):
    """On the site a link to an example leads to its page in the gallery; in the repository, to its code."""
    source[0] = re.sub(r"\]\(((?:\.\./)*)examples/(\w*)(\.py)?\)",
                       lambda link: f"]({link[1]}gallery/{link[2] or 'index'}.rst)", source[0])


def setup(app):
    app.connect("source-read", to_the_gallery)
    app.connect("autodoc-skip-member", written_elsewhere)
    app.connect("autodoc-process-docstring", as_plain_text, priority=900)
    return {"version": "1", "parallel_read_safe": True}
