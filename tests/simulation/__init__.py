"""All roles in one thread over one memory home, with simulated time: a whole run in a tenth of a second.

`world.py` is the machine room (processes, time, the disk), `trouble.py` what can go wrong, `trial.py` one run
from start to end with everything that must hold after it. `crash_points.py` and `schedules.py` are the two
campaigns, each also a command:

    python -m tests.simulation.crash_points
    python -m tests.simulation.schedules 10000 --from 0
"""
