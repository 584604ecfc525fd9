"""What the machine as a whole has used."""

from kythera.ground.meters import machine_cpu_seconds


def test_the_machine_is_never_busier_than_all_its_cores() -> None:
    """Busy seconds are a part of all seconds, and both only grow."""
    busy, total = machine_cpu_seconds()
    assert 0 < busy <= total
    busy_later, total_later = machine_cpu_seconds()
    assert busy_later >= busy
    assert total_later >= total
