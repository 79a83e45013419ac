"""A digest of what the figures of the gallery come from, besides the scripts that draw them."""

import ast
import glob
import hashlib
from pathlib import Path


def code_of(source):
    """Return code without comments and docstrings, which no figure depends on."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                node.value.value = ""
    return ast.unparse(tree)


def library_digest(root):
    """Digest the code of the library, what saves animations, and the versions of all packages."""
    digest = hashlib.sha256((root / "constraints.txt").read_bytes())
    library = glob.glob("src/liftflow/**/*.py", root_dir=root, recursive=True)
    for name in sorted([*library, "docs/gif_scraper.py"]):
        if not Path(name).name.startswith("plot_"):  # a script, which sphinx-gallery looks after
            code = code_of((root / name).read_text(encoding="utf-8"))
            digest.update(f"{name}\n{code}\n".encode())
    return digest.hexdigest()
