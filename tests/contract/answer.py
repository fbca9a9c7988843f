"""What a site answers, in a form in which two sites can be compared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from shared.errors import HeadraceError

_STORY_STEPS = 12


class Refused(NamedTuple):
    """A call that ended with an error of ours; the class is what the product decides by."""

    error: str


async def answer_of(call: Callable[[], Awaitable[Any]]) -> Any:
    """Return what the call returns, or its refusal."""
    try:
        return await call()
    except HeadraceError as error:
        return Refused(type(error).__name__)


def agree(seed: object, steps: Sequence[object], answers: dict[str, list[Any]]) -> None:
    """Assert that every site gave the first one's answer at each step; the first disagreement tells its story."""
    reference, *others = answers
    for index, step in enumerate(steps):
        for other in others:
            expected, actual = answers[reference][index], answers[other][index]
            if expected != actual:
                first = max(0, index - _STORY_STEPS)
                story = "\n".join(f"  {at:>3} {steps[at]}" for at in range(first, index))
                where, one, two = _first_difference(expected, actual)
                raise AssertionError(
                    f"seed {seed}, step {index}: {step}\nat answer{where}\n{reference}: {one}\n{other}: {two}\n"
                    f"after:\n{story}"
                )


def _first_difference(one: Any, two: Any) -> tuple[str, Any, Any]:
    """Walk down two nested answers to where they part."""
    if isinstance(one, (list, tuple)) and type(one) is type(two) and len(one) == len(two):
        for index, (left, right) in enumerate(zip(one, two, strict=True)):
            if left != right:
                where, left_part, right_part = _first_difference(left, right)
                return f"[{index}]{where}", left_part, right_part
    if is_dataclass(one) and type(one) is type(two):
        for each in fields(one):
            left, right = getattr(one, each.name), getattr(two, each.name)
            if left != right:
                return f".{each.name}", left, right
    return "", one, two
