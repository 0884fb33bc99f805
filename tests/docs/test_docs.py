"""The notebooks and the Python of the documents run, on a home as small as will do."""

import json
import runpy
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from resources.home import Home
from resources.timescale.queries import MarketQueries
from scripts.notebooks import FOLDER, notebook
from trading.provider.provider import UnifiedDataProvider

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_and_is_as_its_file(home: Home, file: Path) -> None:
    left: dict[str, Any] = runpy.run_path(str(file))
    assert file.with_suffix(".ipynb").read_text(encoding="utf-8") == notebook(file.read_text(encoding="utf-8"))
    if file.stem == "as_of":
        assert isinstance(left["versions"], pl.DataFrame) and left["versions"]["complete"].to_list() == [False, True]
    if file.stem == "gaps":
        assert "cell-available" in left["page"]


def test_a_notebook_is_one_that_jupyter_opens() -> None:
    made = json.loads(notebook("# %% [markdown]\n# # Title\n#\n# text\n\n# %%\na = 1\n\na\n\n# %%\nb\n"))
    assert [cell["cell_type"] for cell in made["cells"]] == ["markdown", "code", "code"]
    assert "".join(made["cells"][0]["source"]) == "# Title\n\ntext"
    assert "".join(made["cells"][1]["source"]) == "a = 1\n\na"
    assert len(NOTEBOOKS) == 4


@pytest.mark.parametrize("page", ["api", "from-the-old-data-provider"])
def test_the_python_of_a_page_runs_from_its_first_block_to_its_last(home: Home, page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    names: dict[str, Any] = {"__name__": page}
    for block in blocks:
        exec(compile(block, f"docs/{page}.md: {block[:60]!r}", "exec"), names)
    if page == "api":
        assert names["sources"] == "database" and names["present"] > 0
        for said in (UnifiedDataProvider, MarketQueries):
            methods = [name for name in vars(said) if name.startswith(("get_", "query_"))]
            assert not [name for name in methods if f"{name}(" not in text and name not in INNER], "each has an example"


INNER = {"query_generated", "query_first", "query_empty"}
"""What the provider alone asks."""
