"""A stop that comes after so many looks at it."""

from hwm.work.signals import StopFlag, Stopped


class Stopping(StopFlag):
    """Raised by the look after `looks` ones."""

    def __init__(self, looks):
        super().__init__()
        self.left = looks

    def check(self):
        self.left -= 1
        if self.left < 0:
            raise Stopped(15)
