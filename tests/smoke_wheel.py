"""Try a wheel away from the checkout: smoke_wheel.py WHEEL.

The wheel is unpacked into a new folder outside the checkout, and only its own
copy of liftflow is run; its dependencies are those of the Python that runs this.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOMS = ["architectures", "cli", "criteria", "flows", "gallery", "losses", "manifolds", "metrics"]
CHECKOUT = Path(__file__).resolve().parents[1]
IMPORT_ALL = f"""
import importlib, pkgutil, sys
import liftflow
names = [m.name for m in pkgutil.walk_packages(liftflow.__path__, "liftflow.")]
aside = "liftflow.gallery.plot_", "liftflow.torch"  # scripts, and an extra
names = [name for name in names if not name.startswith(aside)]
modules = [liftflow] + [importlib.import_module(name) for name in names]
strangers = [m.__file__ for m in modules if not m.__file__.startswith(sys.argv[1])]
assert not strangers, f"not the wheel's copy: {{strangers}}"
missing = {{f"liftflow.{{room}}" for room in {ROOMS}}} - {{*names}}
assert not missing, f"the wheel lacks {{sorted(missing)}}"
print(len(modules), "modules of the wheel import")
"""


def main(wheel: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="liftflow-wheel-") as folder:
        away = Path(folder).resolve()
        if away.is_relative_to(CHECKOUT):
            sys.exit(f"{away} is inside the checkout; set TMPDIR to a folder outside it")
        site, out = away / "site", away / "out"
        # PYTHONPATH goes before the editable install's path, so the wheel's copy wins.
        env = {**os.environ, "PYTHONPATH": str(site), "MPLBACKEND": "Agg"}

        def run(*arguments: str, **options) -> None:
            print("+ python", *["..." if "\n" in a else a for a in arguments], flush=True)
            command = [sys.executable, *arguments]
            subprocess.run(command, cwd=away, env=env, check=True, **options)

        install = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(site)]
        run("-m", "pip", "install", *install, str(wheel.resolve()))
        run("-c", IMPORT_ALL, str(site))
        if not (site / "liftflow" / "py.typed").is_file():
            sys.exit("the wheel lacks py.typed")
        if strays := [p.name for p in site.iterdir() if p.name in {*ROOMS, "tests"}]:
            sys.exit(f"the wheel has top-level folders that are not liftflow: {strays}")
        run("-m", "liftflow", "--help", stdout=subprocess.DEVNULL)
        compare = ["compare", "--data", "iris", "--widths", "4-6-3", "--t-end", "1"]
        run("-m", "liftflow", *compare, "--out", str(out))
        if not out.is_dir() or not any(out.iterdir()):
            sys.exit("liftflow compare wrote nothing to --out")
        run("-m", "liftflow", "gallery", "quick_start", "--out", str(away / "gallery"))
        if not [*away.glob("gallery/*.png")]:
            sys.exit("liftflow gallery wrote no picture to --out")
    print(f"{wheel.name} works away from the checkout")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"the wheel's smoke test failed (exit status {error.returncode})")
