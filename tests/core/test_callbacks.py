import inspect

import pytest
from recorder import NEWS, Recorder

from topwork.core.callbacks import SILENT, Callback


@pytest.mark.parametrize("name", NEWS)
def test_nothing_is_done_unless_a_method_is_overridden(name):
    method = getattr(SILENT, name)
    news = [object() for _ in inspect.signature(method).parameters]
    assert method(*news) is None
    assert method.__doc__
    recorder = Recorder()
    getattr(recorder, name)(*news)
    assert recorder.told[name] == [tuple(news)]


def test_the_shared_one_cannot_be_given_anything_to_do():
    assert type(SILENT) is Callback
    for name in ("on_read", "other"):
        with pytest.raises(AttributeError):
            setattr(SILENT, name, print)
