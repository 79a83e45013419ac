"""What our pages need besides Sphinx: executed notebooks of the gallery, links, claims."""

import importlib
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.parsers.rst import Directive
from nbclient import NotebookClient
from sphinx import addnodes

from liftflow import gallery

HERE = Path(__file__).parent


class GalleryClaims(Directive):
    """A table of the claims of all scripts: claim, source, assert and control."""

    def run(self):
        """Return the table."""
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 8 44 20 28", ""]
        lines += ["   * - script", "     - claim", "     - whose", "     - would be noticed by"]
        for script in gallery.scripts():
            for claim in script.claims:
                keys = [k if k == "ours" else f":cite:t:`{k}`" for k in claim.whose.split(", ")]
                lines += [
                    f"   * - :doc:`{script.name[:2]} <gallery/plot_{script.name}>`",
                    f"     - {claim.text}".replace("|", r"\|"),
                    f"     - {', '.join(keys)}",
                    f"     - “{claim.check}”; control: “{claim.control}”".replace("|", r"\|"),
                ]
        self.state_machine.insert_input(["", *lines, ""], "claims")
        return []


def copy_twins(app, error):
    """Copy the dark twins of figures to where the light ones are."""
    where = Path(app.outdir) / "_images"
    if error is None and where.is_dir():
        for source, (_, name) in app.env.images.items():
            light, copied = Path(app.srcdir, source), where / name
            twin = light.with_stem(f"{light.stem}_dark")
            if twin.is_file():
                shutil.copy(twin, copied.with_stem(f"{copied.stem}_dark"))


# Names of the API in prose become links.

VARIABLES = {
    "architecture": "liftflow.architectures.Architecture",
    "network": "liftflow.architectures.ReLUNetwork",
    "linear": "liftflow.architectures.DeepLinear",
    "invariant_set": "liftflow.manifolds.InvariantSet",
    "metric": "liftflow.metrics.IntrinsicMetric",
    "cometric": "liftflow.metrics.Cometric",
    "loss": "liftflow.losses.Loss",
    "trajectory": "liftflow.flows.Trajectory",
    "comparison": "liftflow.flows.Comparison",
    "potential": "liftflow.flows.MirrorPotential",
    "run": "liftflow.flows.Comparison",
}
NAME = re.compile(r"(?:\w+ = )?((?:\w+\.)*\w+)(\(.*\))?$", re.DOTALL)


def link_names(app, doctree, docname):
    """Make literals that name something of the API lead to it."""
    if docname.startswith("api"):
        return
    objects = app.env.get_domain("py").objects
    short = {}
    for full in objects:
        short.setdefault(full.rsplit(".", 1)[-1] if full.count(".") == 2 else full, full)
    for node in list(doctree.findall(nodes.literal)):
        if isinstance(node.parent, nodes.reference | addnodes.pending_xref | nodes.title):
            continue
        found = NAME.match(node.astext())
        if not found:
            continue
        first, *rest = found[1].removeprefix("liftflow.").split(".")
        base = (VARIABLES.get(first) if rest else None) or short.get(first)
        if base is None and rest and f"liftflow.{first}.{rest[0]}" in objects:
            base = f"liftflow.{first}.{rest.pop(0)}"
        if base is None and f"liftflow.{first}" in objects:
            base = f"liftflow.{first}"
        while rest and base:
            name = rest.pop(0)
            base = _member(base, name, objects)
        if base in objects:
            entry = objects[base]
            where = app.builder.get_relative_uri(docname, entry.docname) + f"#{entry.node_id}"
            link = nodes.reference("", "", internal=True, refuri=where, classes=["api-link"])
            node.replace_self(link)
            link += node


def _member(base, name, objects):
    """Find a member of a class, also one that it inherits."""
    if f"{base}.{name}" in objects:
        return f"{base}.{name}"
    room, _, cls = base.rpartition(".")
    try:
        thing = getattr(importlib.import_module(room), cls)
    except (ImportError, AttributeError, ValueError):
        return None
    for parent in getattr(thing, "__mro__", ())[1:]:
        module = ".".join(parent.__module__.split(".")[:2])
        if f"{module}.{parent.__name__}.{name}" in objects:
            return f"{module}.{parent.__name__}.{name}"
    return None


def first_figure(lines):
    """Put the first figure of a gallery page right under its title."""
    text = "\n".join(lines)
    block = r"(?:^\.\. image:: .*\n(?:   :.*\n)+\n?)+"
    found = re.search(block, text, re.MULTILINE)
    title = re.search(r"^.+\n=+\n", text, re.MULTILINE)
    if found and title and found.start() > title.end():
        text = text[: title.end()] + "\n" + found[0] + "\n" + text[title.end() :]
    lines[:] = text.split("\n")


# Notebooks of the gallery, executed.


def execute_notebooks():
    """Run the notebooks that were not yet; sphinx-gallery writes that of a script that changed."""
    paths = [HERE / "gallery" / f"plot_{script.name}.ipynb" for script in gallery.scripts()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(execute, paths))


def execute(path):
    """Run a notebook where it lies, unless it was."""
    notebook = nbformat.read(path, as_version=4)
    if notebook.metadata.get("executed"):
        return
    resources = {"metadata": {"path": str(HERE)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    notebook.metadata["executed"] = True
    nbformat.write(notebook, path)


def setup(app):
    """Register what is above."""
    app.add_directive("gallery-claims", GalleryClaims)
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True}
