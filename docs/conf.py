"""Sphinx reads this. Nothing is fetched from the network, neither now nor by a reader's browser."""

import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("GEOMSTATS_BACKEND", "autograd")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this one

from numpydoc.xref import DEFAULT_LINKS
from page_figures import draw_pages
from pages import copy_twins, execute_notebooks, first_figure
from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style as PlainStyle
from pybtex.style.labels import BaseLabelStyle
from sphinx.ext.autodoc.mock import _MockObject, mock
from typing_extensions import TypeAliasType

import liftflow
import liftflow.typing as shapes

if importlib.util.find_spec("torch") is None:  # an extra: its names are enough for these pages
    _MockObject.__or__ = _MockObject.__ror__ = lambda own, other: own
    with mock(["torch"]):
        importlib.import_module("liftflow.torch")

ROOT = Path(__file__).parents[1]

project = "liftflow"
author = "the liftflow founders"
version = release = liftflow.__version__
html_title = f"liftflow {version}"

extensions = [
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "numpydoc",
    "pages",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",  # source links
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
]
exclude_patterns = [
    "_build",
    "gallery/backreferences",
    "gallery/index.rst",
]  # ours groups the cards
templates_path = ["_templates"]
highlight_language = "python"

html_theme = "pydata_sphinx_theme"
(Path(__file__).parent / "gallery/static").mkdir(parents=True, exist_ok=True)
html_static_path = ["_static", "gallery/static"]
html_css_files = ["liftflow.css"]
html_js_files = ["themes.js"]
html_search_scorer = str(Path(__file__).parent / "_static/scorer.js")  # pages of the gallery first
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
# A page without pages below it has nothing to navigate.
html_sidebars = {path.stem: [] for path in Path(__file__).parent.glob("*.*") if path.stem != "api"}
html_favicon = "_static/liftflow.svg"
html_show_sourcelink = False
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system
html_theme_options = {
    "header_links_before_dropdown": 7,  # as many as have room at 1,400 pixels
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}

# Docstrings.
autosummary_ignore_module_all = False
autodoc_typehints = "signature"  # with the names of shapes, each a link
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # autodoc lists them

# Every reference leads somewhere, but for those into other packages, whose pages are elsewhere,
# and to what a room keeps for itself.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!liftflow\b).*"),
    (
        "py:class",
        r"liftflow\.(\w+\.\w+\.\w+|doors\.\w+|files\.\w+|typing\.T)",
    ),
]


SHAPES = [name for name, value in vars(shapes).items() if isinstance(value, TypeAliasType)]


def classes():
    """Yield each class of the API and each named shape, with its full name."""
    for room in re.findall(r"^   (liftflow\.\w+)$", (ROOT / "docs/api.rst").read_text(), re.M):
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", vars(module)):
            thing = getattr(module, name)
            if inspect.isclass(thing) and thing.__module__.startswith(room):
                yield name, f"{room}.{name}"
    yield from ((name, f"liftflow.typing.{name}") for name in SHAPES)


# In types, the names of our classes are links; all other words are words.
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {**{word: word for word in DEFAULT_LINKS}, **dict(classes())}

# Pages in Markdown.
myst_enable_extensions = ["attrs_inline", "dollarmath"]
myst_heading_anchors = 3
mathjax3_config = {"tex": {"macros": {"M": r"\mathcal{M}_{\theta_0}"}}}

plot_formats = [("png", 130)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = False


# Citations: [KEY]_ in docstrings and pages, from references.bib by its keys.


class KeyLabels(BaseLabelStyle):
    """Label each source by its key."""

    def format_labels(self, sorted_entries):
        """Yield the label of each entry."""
        for entry in sorted_entries:
            yield entry.key


class KeyStyle(PlainStyle):
    """The plain style with the keys as labels."""

    default_label_style = KeyLabels


register_plugin("pybtex.style.formatting", "key", KeyStyle)
bibtex_bibfiles = ["../references.bib"]
bibtex_default_style = "key"
bibtex_reference_style = "label"

KEYS = re.findall(r"^@\w+\{(\w+),$", (ROOT / "references.bib").read_text(), re.MULTILINE)
CITATION = re.compile(rf"(?<![\w`)\]}}])\[({'|'.join(KEYS)})\]_(?!\w)")


def cite(lines):
    """Hand the citations in lines of reStructuredText to bibtex, in place."""
    lines[:] = [CITATION.sub(r":cite:p:`\1`", line) for line in lines]


# Docstrings have formulas in plain text, such as |z| and shape=[..., *lifted_shape]: outside of
# literals, roles, examples and directives, the two signs mean themselves. The pages of the gallery
# have the first one, and mean the second as markup.
LITERAL = re.compile(r"(``.*?``|`[^`]*`)")


def plain_signs(lines, signs):
    """Escape the signs that reStructuredText would read as markup, in place."""
    block = None  # indentation of the directive, or of the paragraph before a literal block
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block is not None and line.strip() and indent <= block:
            block = None
        if block is None and not line.lstrip().startswith((">>>", "...")):
            parts = LITERAL.split(line)
            parts[::2] = [re.sub(rf"(?<!\\)([{signs}])", r"\\\1", part) for part in parts[::2]]
            lines[number] = "".join(parts)
            if re.match(r"\s*\.\. [\w-]+::", line) or line.rstrip().endswith("::"):
                block = indent


def read_docstring(app, kind, name, thing, options, lines):
    """Prepare a docstring, before numpydoc takes the keys of citations for its own."""
    cite(lines)
    plain_signs(lines, "*|")


def skip_inherited(app, kind, name, thing, skip, options):
    """Leave out methods of geomstats that only got a door."""
    module = getattr(inspect.unwrap(thing), "__module__", None) if callable(thing) else None
    return True if str(module).startswith("geomstats") else None


def read_gallery_page(app, name, source):
    """Prepare a page of the gallery."""
    if name.startswith("gallery/"):
        lines = source[0].split("\n")
        cite(lines)
        plain_signs(lines, "|")
        first_figure(lines)
        source[0] = "\n".join(lines)


# The pages at the root of the repository. Their links to files become links to pages, or text.

PAGES = {
    "NOTATION.md": "notation.md",
    "CONTRIBUTING.md": "extend.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:)([^)#]+)(#[^)]*)?\)")


def relink(match):
    """Return a link that leads somewhere from a page of docs/."""
    image, text, target, _ = match.groups()
    if image:
        return f"![{text}](../{target}){{.themed .dark-light}}"
    if target in PAGES:
        return f"[{text}]({PAGES[target]})"
    if target.startswith("gallery/plot_"):
        return f"[{text}]({target.removesuffix('.py')}.rst)"
    return f"`{text}`"


def read_included(app, path, parent, content):
    """Relink a page that is included."""
    if not Path(path).is_absolute() and ".." in Path(path).parts:
        content[0] = LINK.sub(relink, content[0])


# The gallery. A script runs again when it changed; make docs lets all run when the library did.


def run_the_rest(app):
    """Once the scripts have run, run their notebooks and draw the figures of pages."""
    if str(app.config.plot_gallery) not in ("0", "False"):  # sphinx-build -D plot_gallery=0
        execute_notebooks()
        draw_pages()


sphinx_gallery_conf = {
    "examples_dirs": "../gallery",
    "gallery_dirs": "gallery",
    "image_scrapers": ("gif_scraper.scraper",),
    "first_notebook_cell": "%matplotlib inline",
    "filename_pattern": r"plot_",
    "ignore_pattern": r"\b(__init__|passes)\.py",
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "min_reported_time": 0,
    "parallel": 2,
    "write_computation_times": False,
    "within_subsection_order": "FileNameSortKey",
    "doc_module": ("liftflow",),
    "backreferences_dir": "gallery/backreferences",
}


def setup(app):
    """Connect what is above to Sphinx."""
    app.connect("autodoc-process-docstring", read_docstring, priority=400)
    app.connect("autodoc-skip-member", skip_inherited)
    app.connect("source-read", read_gallery_page)
    app.connect("include-read", read_included)
    app.connect("builder-inited", run_the_rest, priority=900)
    app.connect("build-finished", copy_twins)
