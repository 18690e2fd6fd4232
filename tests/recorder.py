"""A callback that remembers what it was told."""

from functools import partial

from topwork.core.callbacks import Callback

NEWS = [name for name in vars(Callback) if name.startswith("on_")]


class Recorder(Callback):
    """Remembers the arguments of every call in `told`, by the name of the method.

    What is given by the name of a method is called with its arguments too.
    """

    def __init__(self, **actions):
        assert set(actions) <= set(NEWS)
        self.told = {name: [] for name in NEWS}
        for name in NEWS:
            setattr(self, name, partial(self._hear, name, actions.get(name)))

    def _hear(self, name, action, *news):
        self.told[name].append(news)
        if action is not None:
            action(*news)
