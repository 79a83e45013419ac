"""Run every ``bench_*.py`` beside this file, and print one table: ``make bench``.

Each script is a process of its own, so that memory is its own and one that fails stops no other.
The rows of those that call ``table.report`` come into one table, also in build/benchmarks.md; the
others print theirs. Names on the command line choose some, and what goes on from them with an
underscore: ``python benchmarks/run.py waiting`` runs bench_waiting_classify.py, too.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from table import FOLDER, Row, markdown, show

HERE = Path(__file__).parent


def main() -> None:
    """Run the scripts, show the table, and fail if any of them did."""
    wanted = sys.argv[1:]
    scripts = [
        path
        for path in sorted(HERE.glob("bench_*.py"))
        if not wanted or any(f"{path.stem}_".startswith(f"bench_{name}_") for name in wanted)
    ]
    failed, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, FOLDER: folder}
        for script in scripts:
            print(f"— {script.name}", flush=True)
            if subprocess.run(
                [sys.executable, str(script)], env=environment, check=False
            ).returncode:
                failed.append(script.name)
            own = Path(folder) / f"{script.stem}.json"
            if own.exists():
                rows += [Row(**row) for row in json.loads(own.read_text())]
    if rows:
        show(rows)
        out = Path("build")
        out.mkdir(exist_ok=True)
        (out / "benchmarks.md").write_text(markdown(rows), encoding="utf-8")
    if failed:
        sys.exit(f"failed, or missed a limit: {', '.join(failed)}")


if __name__ == "__main__":
    main()
