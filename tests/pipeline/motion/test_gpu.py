"""The clock of a device's work."""

import time

from pipeline.motion.gpu import BusyClock


def test_a_clock_tells_work_from_idleness():
    clock = BusyClock("cpu")
    with clock:
        time.sleep(0.2)
    time.sleep(0.2)
    assert 0.3 < clock.idle_share() < 0.7
