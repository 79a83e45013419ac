"""Figures and animations of gallery scripts, in both themes; and one panel for the card."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.animation import Animation
from sphinx_gallery.utils import scale_image

from liftflow.figures import recoloured, save_animation

PANELS = dict.fromkeys(["01", "05", "06", "07", "08", "09", "10", "15"], 1)  # shown on the card


def themed(path, alt):
    """Return a figure as reStructuredText; themes.js shows its dark twin on dark pages."""
    return (
        f"\n.. image:: {path}\n   :alt: {alt}\n   :class: sphx-glr-single-img themed dark-light\n"
    )


def save_both(figure, path, animation=None, **settings):
    """Save a figure, or its animation, and its dark twin beside it."""
    twins = (path, False), (path.with_name(f"{path.stem}_dark{path.suffix}"), True)
    for where, dark in twins:
        with recoloured(figure, dark):
            if animation is None:
                figure.savefig(where, **settings)
            else:
                save_animation(animation, where)


def scraper(block, block_vars, gallery_conf, **kwargs):
    """Save the figures and animations of a block in both themes, and first the card's panel."""
    found, shown = "", block_vars["example_globals"].values()
    moving = {}
    for animation in shown:
        if isinstance(animation, Animation) and plt.fignum_exists(animation._fig.number):
            moving[animation._fig.number] = animation
    script = Path(block_vars["src_file"]).stem
    for number in plt.get_fignums():
        figure = plt.figure(number)
        path = Path(next(block_vars["image_path_iterator"]))
        if path.stem.endswith("_001"):
            save_card(figure, path, script)
            path = Path(next(block_vars["image_path_iterator"]))
        path = path.with_suffix(".gif" if number in moving else ".png")
        save_both(figure, path, moving.get(number))
        title = (figure._suptitle.get_text() if figure._suptitle else script).replace("\n", " ")
        found += themed(f"/gallery/images/{path.name}", re.sub(r"[*|`_]", " ", title))
    plt.close("all")
    return found


def save_card(figure, path, script):
    """Save one panel of a figure, which sphinx-gallery takes for the card, and the dark card."""
    panels = [axes for axes in figure.axes if axes.axison or axes.has_data()]
    panel = panels[min(PANELS.get(script.split("_")[1], 0), len(panels) - 1)]
    figure.canvas.draw()
    box = panel.get_tightbbox().transformed(figure.dpi_scale_trans.inverted()).padded(0.08)
    engine, above = figure.get_layout_engine(), [*figure.legends, figure._suptitle]
    figure.set_layout_engine("none")  # what is of the whole figure would move into the box
    for artist in filter(None, above):
        artist.set_visible(False)
    save_both(figure, path, bbox_inches=box, dpi=120)
    for artist in filter(None, above):
        artist.set_visible(True)
    figure.set_layout_engine(engine)
    dark, card = path.with_stem(f"{path.stem}_dark"), f"sphx_glr_{script}_thumb_dark.png"
    scale_image(dark, path.parent / "thumb" / card, 400, 280)
