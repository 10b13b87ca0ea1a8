"""When checkpoints are taken and how much of the log may go behind them."""

from raftkv.replica.housekeeping import FOLLOWED_CHECKPOINTS, SILENT_TICKS, Housekeeping


def test_a_checkpoint_starts_after_enough_entries_and_only_once_at_a_time() -> None:
    keeping = Housekeeping(100, 10, checkpoint_index=0, anchor_index=0)
    assert not keeping.checkpoint_due(99)
    assert keeping.checkpoint_due(100)
    assert not keeping.checkpoint_due(500)
    keeping.checkpointed(100)
    assert keeping.checkpoint_due(500)


def test_the_log_is_dropped_only_behind_a_finished_checkpoint() -> None:
    keeping = Housekeeping(100, 10, checkpoint_index=0, anchor_index=0)
    assert keeping.checkpoint_due(100)
    assert keeping.truncation_due() == 0
    keeping.checkpointed(100)
    assert keeping.truncation_due() == 90


def test_one_truncation_runs_at_a_time() -> None:
    keeping = Housekeeping(100, 10, checkpoint_index=0, anchor_index=0)
    keeping.checkpointed(100)
    assert keeping.truncation_due() == 90
    keeping.checkpointed(300)
    assert keeping.truncation_due() == 0
    keeping.truncated(90)
    assert keeping.truncation_due() == 290


def test_the_log_is_kept_behind_a_state_that_is_being_sent() -> None:
    keeping = Housekeeping(100, 10, checkpoint_index=0, anchor_index=0)
    keeping.sending(7, 50)
    keeping.checkpointed(1000)
    assert keeping.truncation_due() == 40
    keeping.truncated(40)
    assert keeping.truncation_due() == 0
    keeping.sent(7)
    assert keeping.truncation_due() == 990


def test_a_transfer_that_goes_on_keeps_the_log_behind_its_own_index() -> None:
    keeping = Housekeeping(100, 10, checkpoint_index=0, anchor_index=0)
    keeping.sending(7, 50)
    keeping.sending(7, 900)  # asked for again after a break, by a state that has grown
    keeping.checkpointed(1000)
    assert keeping.truncation_due() == 40
    keeping.truncated(40)
    keeping.sent(7)
    keeping.sending(7, 900)
    assert keeping.truncation_due() == 890


def test_an_installed_state_counts_as_a_checkpoint() -> None:
    keeping = Housekeeping(100, 10, checkpoint_index=0, anchor_index=0)
    keeping.installed(500)
    assert keeping.first_kept == 501
    assert not keeping.checkpoint_due(550)
    assert keeping.truncation_due() == 0


def test_members_take_their_checkpoints_at_different_indices() -> None:
    due: list[list[int]] = []
    for phase in (0, 33, 66):
        keeping = Housekeeping(100, 10, checkpoint_index=0, anchor_index=0, phase=phase)
        found = []
        for index in range(1, 400):
            if keeping.checkpoint_due(index):
                found.append(index)
                keeping.checkpointed(index)
        due.append(found)
    assert due == [[100, 200, 300], [67, 167, 267, 367], [34, 134, 234, 334]]


def _after_a_long_transfer() -> Housekeeping:
    """Member 7 has the state at 50; ten checkpoints later."""
    keeping = Housekeeping(100, 10, checkpoint_index=0, anchor_index=0)
    keeping.sending(7, 50)
    keeping.checkpointed(1000)
    assert keeping.truncation_due() == 40
    keeping.truncated(40)
    keeping.sent(7, 50)
    assert keeping.truncation_due() == 50
    keeping.truncated(50)
    return keeping


def test_what_a_member_needs_behind_the_state_it_got_is_kept_until_it_has_caught_up() -> None:
    """Or it would need another state at once, and never catch up with a busy cluster."""
    keeping = _after_a_long_transfer()
    for match in (50, 300, 700):
        keeping.follow(7, match, answers=True)
        index = keeping.truncation_due()
        assert index <= match
        if index:
            keeping.truncated(index)
    keeping.checkpointed(1100)
    keeping.follow(7, 1095, answers=True)
    assert keeping.truncation_due() == 1090


def test_a_member_that_falls_silent_behind_its_state_stops_holding_the_log() -> None:
    keeping = _after_a_long_transfer()
    for _ in range(SILENT_TICKS):
        keeping.follow(7, 50, answers=False)
    assert keeping.truncation_due() == 0
    keeping.follow(7, 52, answers=True)  # it was only slow
    for _ in range(SILENT_TICKS):
        keeping.follow(7, 52, answers=False)
    assert keeping.truncation_due() == 0
    keeping.follow(7, 52, answers=False)
    assert keeping.truncation_due() == 990


def test_a_member_that_only_falls_back_further_does_not_hold_the_log_for_ever() -> None:
    keeping = _after_a_long_transfer()
    keeping.checkpointed(50 + FOLLOWED_CHECKPOINTS * 100)
    keeping.follow(7, 50, answers=True)
    assert keeping.truncation_due() == 0
    keeping.checkpointed(51 + FOLLOWED_CHECKPOINTS * 100)
    keeping.follow(7, 50, answers=True)
    assert keeping.truncation_due() == 41 + FOLLOWED_CHECKPOINTS * 100


def test_nothing_is_kept_for_a_member_that_refused_its_state() -> None:
    keeping = _after_a_long_transfer()
    keeping.unfollow(7)
    keeping.sending(7, 900)
    keeping.sent(7)
    assert keeping.truncation_due() == 990
