"""A predict set of the task: ten digits without labels, others for each set. Arguments: X."""

import sys

import numpy as np

from coppice.data.digits import load_digits
from coppice.registry.scripting import save_array, seed

digits = load_digits()
chosen = np.random.default_rng(seed()).choice(len(digits.test_x), 10, replace=False)
save_array(sys.argv[1], digits.test_x[chosen])
