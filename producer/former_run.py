"""How far an earlier run of a followed file may have sent."""

from __future__ import annotations


class FormerRun:
    """What an earlier run sent behind its bookmark has ids by the lanes of that time, and comes again under them.

    It is in no generation after `generation`, as a file is in the bookmark before its first event is sent, and in
    that one not beyond the end that the file has when it is opened once more.
    """

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._end = float("inf")

    def open(self, generation: int, size: int) -> None:
        """Take note of how large a file is that is to be read."""
        if generation == self._generation:
            self._end = size

    def may_have_passed(self, generation: int, offset: int) -> bool:
        """Whether it may have sent something behind this place."""
        return generation < self._generation or (generation == self._generation and offset < self._end)
