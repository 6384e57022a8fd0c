"""A predict set of the task: a hundred images without labels, others for each set. Arguments: X."""

import sys

import numpy as np

from coppice.data.mnist import load_mnist
from coppice.registry.scripting import save_array, seed

mnist = load_mnist()
chosen = np.random.default_rng(seed()).choice(len(mnist.test_x), 100, replace=False)
save_array(sys.argv[1], mnist.test_x[chosen])
