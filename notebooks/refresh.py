"""Run notebooks from top to bottom and keep their outputs as the repository wants them.

    python notebooks/refresh.py                      # all of them
    python notebooks/refresh.py 05_outer_loop.ipynb  # one

A page without a kernel cannot show a widget, so its text is kept instead; progress bars keep their last state. Each
code cell keeps the seconds it took, and the opening card states their sum in minutes.
"""

from __future__ import annotations

import datetime
import pathlib
import re
import sys

import nbclient
import nbformat

HERE = pathlib.Path(__file__).resolve().parent
WIDGET = "application/vnd.jupyter.widget-view+json"


def refresh(path: pathlib.Path) -> float:
    """Execute one notebook in place, clean it, and return the seconds that its cells took."""
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", store_widget_state=False).execute()
    seconds = keep_times(notebook)
    clean(notebook)
    nbformat.write(notebook, path)
    return seconds


def keep_times(notebook: nbformat.NotebookNode) -> float:
    """Put the seconds of each cell in the place of its timestamps, and the minutes of all on the opening card."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        times = cell.metadata.pop("execution")
        began, ended = (datetime.datetime.fromisoformat(times[f"iopub.status.{state}"]) for state in ("busy", "idle"))
        cell.metadata["seconds"] = round((ended - began).total_seconds(), 1)
    seconds = sum(cell.metadata["seconds"] for cell in code)
    minutes = f"{seconds / 60:.1g}"
    stated = f"{minutes} minute{'' if minutes == '1' else 's'} on two CPU cores"
    card = notebook.cells[0]
    card.source = re.sub(r"\b[\d.]+ minutes? on two CPU cores", stated, card.source)
    return seconds


def clean(notebook: nbformat.NotebookNode) -> None:
    """Drop what is of this run only: widget views, all but the last state of a progress bar."""
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": language})
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "data" in output and len(output.data) > 1:
                output.data.pop(WIDGET, None)
            if output.output_type == "stream":
                output.text = "\n".join(line.split("\r")[-1] for line in output.text.split("\n"))


if __name__ == "__main__":
    for file in [HERE / name for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        print(f"{file.name}: {refresh(file):.0f} s")
