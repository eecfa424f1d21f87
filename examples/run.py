"""Execute the notebooks in this folder and write their outputs, and a hash of their sources, into them.

    python examples/run.py                    all of them
    python examples/run.py 01_one_device      these

A test compares the hash with the sources, so that no notebook is committed with outputs of other code.
"""

import hashlib
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 600


def source_sha256(notebook: nbformat.NotebookNode) -> str:
    """Return the hash of all cells' sources, joined by new lines."""
    return hashlib.sha256("\n".join(cell["source"] for cell in notebook["cells"]).encode()).hexdigest()


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run the cells in order with this interpreter and this checkout; raise `CellExecutionError` where one fails."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    # What tqdm says where ipywidgets is not installed; no bar is shown anyway.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    # Set by some test runners, it would keep pictures out of the notebook.
    os.environ.pop("MPLBACKEND", None)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=TIMEOUT_S,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(HERE)}},
    )
    executed: nbformat.NotebookNode = client.execute()
    executed["metadata"] = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "tacit": {"source_sha256": source_sha256(executed)},
        }
    )
    return executed


def main(names: list[str]) -> None:
    """Execute the named notebooks, or all."""
    for path in [HERE / f"{name}.ipynb" for name in names] or sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        nbformat.write(execute(notebook), path)
        print(f"{path.name}: {len(notebook['cells'])} cells")


if __name__ == "__main__":
    main([name.removesuffix(".ipynb") for name in sys.argv[1:]])
