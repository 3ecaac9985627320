"""Settings of the helpers from the environment."""
import pytest

from xstream.guest.policies import Decision
from xstream.guest.rounds import Round
from xstream.xen.settings import Settings


def after(number, dirty, seconds=1.0):
    """A round that sent 1000 pages in ``seconds``."""
    return Round(number, "live", 1000, 1000, 4104000, seconds, dirty)


def test_without_settings_it_is_xens_rule():
    policy = Settings.from_environment({}).policy()
    assert policy(after(0, 49)) is Decision.STOP
    assert policy(after(3, 50)) is Decision.CONTINUE
    assert policy(after(4, 50)) is Decision.STOP


def test_rounds():
    policy = Settings.from_environment({"XSTREAM_ROUNDS": "2"}).policy()
    assert [policy(after(number, 500)) for number in (0, 1)] == [Decision.CONTINUE, Decision.STOP]


def test_downtime():
    policy = Settings.from_environment({"XSTREAM_DOWNTIME": "300", "XSTREAM_ROUNDS": "4"}).policy()
    assert policy(after(0, 400)) is Decision.CONTINUE
    assert policy(after(1, 290)) is Decision.STOP
    assert policy(after(3, 900)) is Decision.STOP


def test_giving_up():
    policy = Settings.from_environment(
        {"XSTREAM_DOWNTIME": "300", "XSTREAM_ROUNDS": "4", "XSTREAM_GIVE_UP": "1"}).policy()
    assert policy(after(1, 290)) is Decision.STOP
    assert policy(after(3, 290)) is Decision.STOP
    assert policy(after(3, 900)) is Decision.ABORT


def test_the_crc_of_the_memory():
    assert Settings.from_environment({"XSTREAM_MEMORY_CRC": "1"}).memory_crc
    assert not Settings.from_environment({"XSTREAM_MEMORY_CRC": "0"}).memory_crc


@pytest.mark.parametrize("environment, named", [
    ({"XSTREAM_DOWNTIME": "soon"}, "XSTREAM_DOWNTIME"), ({"XSTREAM_DOWNTIME": "-1"}, "XSTREAM_DOWNTIME"),
    ({"XSTREAM_ROUNDS": "nan"}, "XSTREAM_ROUNDS"), ({"XSTREAM_GIVE_UP": "1"}, "XSTREAM_DOWNTIME"),
])
def test_settings_that_make_no_sense(environment, named):
    with pytest.raises(ValueError, match=named):
        Settings.from_environment(environment)
