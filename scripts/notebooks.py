"""Make Jupyter notebooks of the Python files in docs/notebooks, or say with --check which of them are not as their files."""

import json
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook(source: str) -> str:
    """Return the notebook of a file whose cells begin with `# %%`, and whose text cells with `# %% [markdown]`."""
    cells = []
    for place, (kind, body) in enumerate(re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", source, re.M | re.S)):
        body = body.strip("\n")
        cell = {"id": f"cell-{place}", "metadata": {}}
        if kind:
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.splitlines())
            cells.append({"cell_type": "markdown", **cell, "source": text.splitlines(keepends=True)})
        else:
            code = {"execution_count": None, "outputs": [], "source": body.splitlines(keepends=True)}
            cells.append({"cell_type": "code", **cell, **code})
    whole = {"cells": cells, "metadata": {"kernelspec": KERNEL}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the notebooks, or check them."""
    stale = []
    for file in sorted(FOLDER.glob("*.py")):
        made, target = notebook(file.read_text(encoding="utf-8")), file.with_suffix(".ipynb")
        if not target.exists() or target.read_text(encoding="utf-8") != made:
            stale.append(target.name)
            if "--check" not in sys.argv:
                target.write_text(made, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"not as their files: {', '.join(stale)}; run 'make notebooks'")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
