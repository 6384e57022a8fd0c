"""Trains LeNet-300-100. Arguments: X Y MODEL."""

import sys

import torch

from coppice.models.builtin import lenet_300_100
from coppice.registry.scripting import load_arrays, report, save_model, seed

EPOCHS = 5

torch.manual_seed(seed())
x, y = (torch.from_numpy(array) for array in load_arrays(*sys.argv[1:3]))
network = lenet_300_100()
optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
for epoch in range(EPOCHS):
    for batch in torch.randperm(len(x)).split(64):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
    report(epoch + 1, 100 * (epoch + 1) / EPOCHS, loss={"epoch": epoch + 1, "training": loss.item()})
save_model(sys.argv[3], network, "lenet-300-100")
