"""A test set of the task: the digits that no train set has. Arguments: X Y."""

import sys

from coppice.data.digits import load_digits
from coppice.registry.scripting import save_array

digits = load_digits()
save_array(sys.argv[1], digits.test_x)
save_array(sys.argv[2], digits.test_y)
print(f"{len(digits.test_y)} images of 8x8 pixels")
