"""The code of the pages runs as it stands, each guide by itself, in a folder of its own."""

import re
from pathlib import Path

import pytest
from test_docs import printed_by

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ["howto.md", "geometers.md", "trainers.md", "index.md"]


def guides():
    """Yield each section with Python in it."""
    for page in PAGES:
        for section in re.split(r"^## ", (DOCS / page).read_text(), flags=re.MULTILINE):
            code = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
            if code:
                title = section.splitlines()[0].lower().replace(" ", "-")
                yield pytest.param("\n".join(code), id=f"{page}:{title}")


GUIDES = list(guides())


def test_there_are_guides():
    titles = " ".join(guide.id for guide in GUIDES)
    for word in ("data", "metric", "laws", "sweep", "stop", "mean", "verdict"):
        assert word in titles


@pytest.mark.slow
@pytest.mark.parametrize("code", GUIDES)
def test_a_guide_runs(code, tmp_path):
    printed_by(code, tmp_path)


def test_a_guide_that_is_wrong_is_noticed(tmp_path):
    with pytest.raises(AssertionError):
        printed_by("assert False", tmp_path)
