"""What our pages need besides Sphinx: a grouped gallery, its notebooks, links, claims."""

import hashlib
import importlib
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.parsers.rst import Directive
from nbclient import NotebookClient
from PIL import Image
from sphinx import addnodes

from liftflow import gallery

HERE = Path(__file__).parent
IMAGES = HERE / "gallery" / "images"

GROUPS = {
    "See it": "The idea on networks small enough to be drawn, and on data.",
    "What holds where": "The hierarchy of properties, and the laws.",
    "Closed forms": "How z tells what each layer has.",
    "Networks as they are used": "Attention, convolution, skips, recurrence, any forward pass.",
    "Training as it is done": "Finite steps, batches, momentum, decay, rates, small weights.",
    "The geometry itself": "Distances, means, mirror maps, and a family of your own.",
}
PLACES = {
    "See it": ["01", "02", "09"],
    "What holds where": ["03", "04", "05", "11"],
    "Closed forms": ["06", "07", "08"],
    "Networks as they are used": ["10", "17", "18", "19", "23", "24"],
    "Training as it is done": ["13", "14", "20", "21", "22"],
    "The geometry itself": ["12", "15", "16"],
}


def clear_cards(app):
    """Remove cards of scripts that are to run again, before they do."""
    for card in IMAGES.glob("card_*.png"):
        if app.config.sphinx_gallery_conf["run_stale_examples"]:
            card.unlink()


def group_gallery(app):
    """Sort the cards into groups, number them, and show one panel on each."""
    index = HERE / "gallery" / "index.rst"
    text = index.read_text(encoding="utf-8")
    start = '.. raw:: html\n\n    <div class="sphx-glr-thumbcontainer"'
    head, *cards = text.split(start)
    if not cards:
        return
    end = ".. thumbnail-parent-div-close"
    cards[-1] = cards[-1].partition(end)[0]
    by_number = {re.search(r"plot_(\d\d)_", card)[1]: start + card for card in cards}
    head = head[: head.rindex(".. raw:: html")] if "thumbnail-parent-div-open" in head else head
    head = re.sub(r"\.\. raw:: html\s+<div class=\"sphx-glr-thumbnails\">\s*", "", head)
    head = head.replace(".. thumbnail-parent-div-open", "")
    known = {number for numbers in PLACES.values() for number in numbers}
    places = {**PLACES, "More": sorted({*by_number} - known)}
    parts = [head.rstrip()]
    opened = '.. raw:: html\n\n    <div class="sphx-glr-thumbnails">\n\n'
    closed = ".. raw:: html\n\n    </div>\n\n"
    for group, numbers in places.items():
        own = [by_number[number] for number in numbers if number in by_number]
        if own:
            words = GROUPS.get(group, "")
            parts.append(f"\n\n{group}\n{'-' * len(group)}\n\n{words}\n\n{opened}")
            parts += [_numbered(card) for card in own]
            parts.append(closed)
    pages = [f"   plot_{script.name}" for script in gallery.scripts()]
    parts.append("\n\n.. toctree::\n   :hidden:\n\n" + "\n".join(pages) + "\n")
    index.write_text("".join(parts), encoding="utf-8")
    for card in IMAGES.glob("card_*.png"):
        thumb = IMAGES / "thumb" / f"sphx_glr_{card.stem.removeprefix('card_')}_thumb.png"
        picture = Image.open(card).convert("RGB")
        picture.thumbnail((400, 280))
        canvas = Image.new("RGB", (400, 280), "white")
        canvas.paste(picture, ((400 - picture.width) // 2, (280 - picture.height) // 2))
        canvas.save(thumb)


def _numbered(card):
    number = re.search(r"plot_(\d\d)_", card)[1]
    return re.sub(
        r'(<div class="sphx-glr-thumbnail-title">)', rf"\g<1>{number}&ensp;", card, count=1
    )


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
        for twin in [*IMAGES.glob("*_dark.*"), *(HERE / "gallery" / "pages").glob("*_dark.*")]:
            shutil.copy(twin, where / twin.name)


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


def execute_notebooks(app, digest):
    """Run the notebook of each script whose outputs are not those of this library."""
    stale = []
    for script in gallery.scripts():
        path = HERE / "gallery" / f"plot_{script.name}.ipynb"
        if path.is_file():
            mark = f"{digest} {hash_of(script.path)}"
            note = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("liftflow")
            if note != mark:
                stale.append((path, mark))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda pair: _execute(*pair), stale))


def hash_of(path):
    """Return a digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _execute(path, mark):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}
    )
    client.execute()
    notebook.metadata["liftflow"] = mark
    nbformat.write(notebook, path)


def setup(app):
    """Register what is above."""
    app.add_directive("gallery-claims", GalleryClaims)
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True}
