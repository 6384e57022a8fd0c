"""A test set of the task: MNIST's own, from COPPICE_MNIST or downloaded. Arguments: X Y."""

import sys

from coppice.data.mnist import load_mnist
from coppice.registry.scripting import save_array

mnist = load_mnist()
save_array(sys.argv[1], mnist.test_x)
save_array(sys.argv[2], mnist.test_y)
print(f"{len(mnist.test_y)} images of 28x28 pixels")
