"""Run notebooks from top to bottom and keep their outputs as the repository wants them.

    python notebooks/refresh.py                      # all of them
    python notebooks/refresh.py 05_outer_loop.ipynb  # one

A page without a kernel cannot show a widget, so its text is kept instead; progress bars keep their last state.
"""

from __future__ import annotations

import pathlib
import sys
import time

import nbclient
import nbformat

HERE = pathlib.Path(__file__).resolve().parent
WIDGET = "application/vnd.jupyter.widget-view+json"


def refresh(path: pathlib.Path) -> float:
    """Execute one notebook in place, clean it, and return the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", store_widget_state=False).execute()
    seconds = time.perf_counter() - started
    clean(notebook)
    nbformat.write(notebook, path)
    return seconds


def clean(notebook: nbformat.NotebookNode) -> None:
    """Drop what is of this run only: widget views, times of cells, all but the last state of a progress bar."""
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": language})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if "data" in output and len(output.data) > 1:
                output.data.pop(WIDGET, None)
            if output.output_type == "stream":
                output.text = "\n".join(line.split("\r")[-1] for line in output.text.split("\n"))


if __name__ == "__main__":
    for file in [HERE / name for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        print(f"{file.name}: {refresh(file):.0f} s")
