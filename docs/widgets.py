"""Photograph two widgets of the playground, as Chromium shows them: python docs/widgets.py (a few minutes).

Makes docs/explorer.png and docs/canvas.png from what the browser test saw.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from PIL import Image

HERE = pathlib.Path(__file__).parent
NOTEBOOK, WIDTH = "lab_playground", 760

with tempfile.TemporaryDirectory() as folder:
    test = [sys.executable, "-m", "pytest", "-q", "tests/test_browser.py", "-k", NOTEBOOK]
    seen = {"METAKIT_SCREENSHOTS": folder, "METAKIT_CI": "1"}  # without Chromium: a failure, not a skip
    subprocess.run(test, cwd=HERE.parent, env=os.environ | seen, check=True)
    for name in ("explorer", "canvas"):
        path = HERE / f"{name}.png"
        with Image.open(pathlib.Path(folder) / f"{NOTEBOOK}_{name}.png") as picture:
            cut = picture.convert("RGB").crop((0, 0, WIDTH, picture.height))  # beyond it an output is empty
            cut.quantize(128).save(path, optimize=True)
            print(f"{path.name}: {cut.width} x {cut.height} pixels, {path.stat().st_size / 1000:.0f} kB")
