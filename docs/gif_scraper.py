"""Animations of gallery scripts as GIFs; the player that sphinx-gallery has needs the network."""

from pathlib import PurePosixPath

import matplotlib.pyplot as plt
from matplotlib.animation import Animation
from sphinx_gallery.scrapers import figure_rst

from liftflow.figures import save_animation


def gif_scraper(block, block_vars, gallery_conf, **kwargs):
    """Save the animations of a block, close their figures and return their place on the page."""
    paths = []
    for animation in block_vars["example_globals"].values():
        if isinstance(animation, Animation) and plt.fignum_exists(animation._fig.number):
            paths.append(PurePosixPath(next(block_vars["image_path_iterator"])).with_suffix(".gif"))
            save_animation(animation, paths[-1])
            plt.close(animation._fig)
    return figure_rst(paths, gallery_conf["src_dir"]) if paths else ""
