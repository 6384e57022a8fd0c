"""The share of samples that a network classifies right. Arguments: MODEL X Y SCORE."""

import sys

import torch

from coppice.registry.scripting import load_arrays, load_model, save_score

x, y = (torch.from_numpy(array) for array in load_arrays(*sys.argv[2:4]))
with torch.no_grad():
    right = load_model(sys.argv[1])(x).argmax(1) == y
save_score(sys.argv[4], right.float().mean().item())
