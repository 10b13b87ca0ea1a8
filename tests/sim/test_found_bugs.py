"""Bugs that the simulator found, cut down to the smallest thing that shows each.

Seeds of whole runs are in seeds.txt.
"""

from raftkv.replica.housekeeping import Housekeeping


def test_truncation_that_ends_after_an_install_does_not_move_the_log_start_back() -> None:
    """The next truncation asked the log for the term of an entry that it no longer has."""
    housekeeping = Housekeeping(20, 5, checkpoint_index=140, anchor_index=100)
    assert housekeeping.truncation_due() == 135
    housekeeping.installed(178)
    housekeeping.truncated(135)
    assert housekeeping.truncation_due() == 0
