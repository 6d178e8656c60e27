"""Draw docs/glyphs.png: six invented alphabets, twelve characters each, by two drawers: python docs/glyphs.py."""

import pathlib

import torch
import torch.nn.functional as F
from PIL import Image

import metakit as mk

ALPHABETS, CHARACTERS, DRAWERS, SIZE, GAP = 6, 12, 2, 56, 20

data = mk.tasks.Glyphs(ALPHABETS, CHARACTERS, DRAWERS, size=SIZE, seed=4)
x = data.x.view(ALPHABETS, CHARACTERS, DRAWERS, SIZE, SIZE)
# An alphabet is a block of two lines, one for each drawer; a gap follows.
blocks = x.permute(0, 2, 3, 1, 4).reshape(ALPHABETS, DRAWERS * SIZE, CHARACTERS * SIZE)
page = F.pad(blocks, (GAP, GAP, 0, GAP)).flatten(0, 1)
page = F.pad(page, (0, 0, GAP, 0))
path = pathlib.Path(__file__).with_suffix(".png")
Image.fromarray((255 - page).to(torch.uint8).numpy()).quantize(16).save(path, optimize=True)
print(f"{path.name}: {page.shape[1]} x {page.shape[0]} pixels, {path.stat().st_size / 1000:.0f} kB")
