"""Files that version 0.1.0 wrote: a run goes on to the bit, a learner answers as it did."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import metakit as mk

FOLDER = Path(__file__).parent / "data"
# What 0.1.0 itself came to, uncut: losses of its eight outer steps and the weights after them.
LOSSES = (4.168969631195068, 7.3486223220825195, 4.245778560638428, 5.4947028160095215, 1.7448643445968628)
LATER = (7.653298377990723, 5.084521293640137, 14.72077751159668)
WEIGHTS = (-0.006157195195555687, 0.5373526215553284, -0.8251150250434875, -0.732910692691803, -0.38683369755744934)
ANSWERS = (0.00011819601058959961, 0.061994511634111404, 0.12318600714206696, 0.20421288907527924)


def test_a_run_that_was_cut_in_0_1_0_goes_on_as_it_would_have_there(tmp_path):
    learner = mk.MAML(nn.Sequential(mk.nn.Linear(1, 4), nn.Dropout(0.5), mk.nn.Linear(4, 1)), steps=2)
    path = shutil.copy(FOLDER / "run-0.1.0.pt", tmp_path)
    options = {"schedule": "CosineAnnealingLR", "checkpoint": path, "resume": True, "progress": False}
    history = mk.fit(learner, mk.tasks.Sinusoids(shots=5, queries=5), steps=8, meta_batch=4, **options)
    assert history.loss[:5] == LOSSES and history.loss[5:] == pytest.approx(LATER, rel=1e-6)
    found = nn.utils.parameters_to_vector(learner.parameters())[:5].tolist()
    assert found == pytest.approx(WEIGHTS, rel=1e-6)


def test_a_learner_that_0_1_0_saved_answers_as_it_did():
    learner = mk.load(FOLDER / "learner-0.1.0.pt")
    x = torch.linspace(-1, 1, 4)[:, None]
    told = learner.predict(x, x.sin(), x).flatten().tolist()
    assert told == pytest.approx(ANSWERS, rel=1e-6)
