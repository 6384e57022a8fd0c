"""A train set of the task: four fifths of the digits that scikit-learn has. Arguments: X Y."""

import sys

from coppice.data.digits import load_digits
from coppice.registry.scripting import save_array

digits = load_digits()
save_array(sys.argv[1], digits.train_x)
save_array(sys.argv[2], digits.train_y)
print(f"{len(digits.train_y)} images of 8x8 pixels")
