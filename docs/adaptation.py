"""Draw docs/adaptation.png, the picture of the README: python docs/adaptation.py (half a minute)."""

import pathlib

import torch

import metakit as mk
from metakit import plots, widgets

torch.manual_seed(0)
torch.set_num_threads(1)
tasks = mk.tasks.Sinusoids(shots=10, queries=10)
learner = mk.MAML(mk.models.MLP(1, [40, 40], 1), rule=mk.SGD(lr=0.01), steps=1)
mk.fit(learner, tasks, steps=10_000, meta_batch=25, lr=1e-3)

fig, (left, right) = plots.figure(9.6, 4.0, columns=2, ratios=(1.7, 1))
plots.draw_adaptation(left, widgets.adaptation(learner, tasks, amplitude=4.0, phase=1.0, steps=10))
plots.draw_evaluation(right, mk.evaluate(learner, tasks, n_tasks=600, steps=10), log=True)
right.set_title("600 new tasks, 95% interval")
path = pathlib.Path(__file__).with_suffix(".png")
path.write_bytes(plots.png(fig))
print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
