"""Which runs a series makes."""

from itertools import islice

import pytest

from jepsen_lite.series import MIXES, in_turn, possible_mixes
from jepsen_lite.target.base import TargetError
from jepsen_lite.workload import WORKLOADS


def test_every_workload_that_can_be_valid_is_in_the_table_and_members_come_and_go() -> None:
    assert {workload for workload, _ in MIXES} == set(WORKLOADS) - {"lock-unfenced"}
    assert any("member" in nemeses for _, nemeses in MIXES)


def test_only_mixes_are_made_whose_faults_are_possible() -> None:
    assert possible_mixes("raftkv", "proxies") == list(MIXES)
    etcd = possible_mixes("etcd", "proxies")
    assert ("set", "member,kill,partition") in etcd
    assert 0 < len(etcd) < len(MIXES)
    assert not any("disk" in nemeses or "clock" in nemeses for _, nemeses in etcd)
    with pytest.raises(TargetError, match="no system 'nope'"):
        possible_mixes("nope", "proxies")


def test_mixes_come_in_their_order_and_then_in_others() -> None:
    mixes = list(MIXES)
    drawn = list(islice(in_turn(mixes, 3), 2 * len(mixes)))
    assert drawn[: len(mixes)] == mixes
    assert sorted(drawn[len(mixes) :]) == sorted(mixes)
    assert drawn == list(islice(in_turn(mixes, 3), 2 * len(mixes)))
