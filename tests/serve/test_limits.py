import pytest

from topwork.core.errors import SettingsError
from topwork.serve.admission import Admission
from topwork.serve.http_errors import HTTPError
from topwork.serve.limits import Limits


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"image_bytes": 0}, "image_bytes: .*received 0"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"queue": 3, "images": 4}, "queue: must be at least .*4, received 3"),
        ({"request_bytes": 2**30}, "held_bytes: must be at least"),
    ],
)
def test_limits_that_make_no_sense_are_refused(values, reason):
    with pytest.raises(SettingsError, match=reason):
        Limits.create(**values)


def test_places_and_bytes_come_back_whatever_happens():
    admission = Admission(Limits.create(queue=3, images=3, request_bytes=10, held_bytes=10))
    with admission.enter() as first, admission.enter() as second:
        first.take_bytes(10)
        with pytest.raises(HTTPError, match="10 bytes together"):
            second.take_bytes(1)
        with pytest.raises(HTTPError, match="at most 3 images and 2 are in it"):
            second.take_slots(2)
        with admission.enter(), pytest.raises(HTTPError), admission.enter():
            pass
        assert (admission.slots, admission.held) == (2, 10)
    assert (admission.slots, admission.held) == (0, 0)
    with pytest.raises(ValueError, match="x"), admission.enter() as ticket:
        ticket.take_bytes(5)
        raise ValueError("x")
    assert (admission.slots, admission.held) == (0, 0)
