"""The ports that tests give to servers: workers beside each other must not give out the same."""

import pytest

from tests.processes import _BEHIND_PORTS, _LOWEST_PORT, _Share, free_ports


def share(number: int, workers: int) -> _Share:
    return _Share({"PYTEST_XDIST_WORKER": f"gw{number}", "PYTEST_XDIST_WORKER_COUNT": str(workers)})


@pytest.mark.parametrize("workers", [2, 3, 4, 16])
def test_workers_beside_each_other_give_out_different_ports(workers: int) -> None:
    shares = [share(number, workers).ports for number in range(workers)]
    ports = [port for one in shares for port in one]
    assert len(ports) == len(set(ports)) > 0.99 * (_BEHIND_PORTS - _LOWEST_PORT)
    assert (min(ports), max(ports) < _BEHIND_PORTS) == (_LOWEST_PORT, True)


def test_no_port_is_given_out_twice_before_all_had_their_turn() -> None:
    """Whoever was given one may not listen on it yet."""
    own = share(1, 8)
    rounds = len(own.ports) // 6
    firsts = [own.take(6) for _ in range(rounds - 1)]
    ports = [port for first in firsts for port in range(first, first + 6)]
    assert len(ports) == len(set(ports))
    assert set(ports) <= set(own.ports)


def test_a_process_alone_has_all_ports_and_gives_out_different_ones() -> None:
    assert _Share({}).ports == range(_LOWEST_PORT, _BEHIND_PORTS)
    given = [port for _ in range(50) for port in free_ports(3)]
    assert len(set(given)) == 150
