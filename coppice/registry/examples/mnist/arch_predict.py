"""How likely a network holds each class, for each sample. Arguments: MODEL X YHAT."""

import sys

import torch

from coppice.registry.scripting import load_arrays, load_model, save_array

(x,) = load_arrays(sys.argv[2])
with torch.no_grad():
    yhat = load_model(sys.argv[1])(torch.from_numpy(x)).softmax(1)
save_array(sys.argv[3], yhat.numpy())
