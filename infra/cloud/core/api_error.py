"""The answer that Kinesis gives instead of a result: an error type and a sentence."""

from __future__ import annotations

from typing import Final, NoReturn

_ECHO_MAX: Final = 256  # characters of the caller's value that an answer repeats


class ApiError(Exception):
    """A call is refused; `code` is the error type as AWS spells it, `message` its text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    @property
    def is_server_fault(self) -> bool:
        """Whether the fault lies with the service (HTTP 500) rather than with the caller (HTTP 400)."""
        return self.code in {"InternalFailure", "InternalFailureException"}


def invalid_argument(message: str) -> NoReturn:
    """Refuse a call whose argument has the right form and a wrong value."""
    raise ApiError("InvalidArgumentException", message)


def constraint_broken(value: object, member: str, constraint: str) -> ApiError:
    """The refusal, in the words of AWS, of a member that breaks a constraint of the service model."""
    shown = str(value)
    shown = shown if len(shown) <= _ECHO_MAX else f"{shown[:_ECHO_MAX]}..."
    return ApiError(
        "ValidationException",
        f"1 validation error detected: Value '{shown}' at '{member}' failed to satisfy constraint: {constraint}",
    )


def validation_failed(value: object, member: str, constraint: str) -> NoReturn:
    """Refuse a call whose member breaks a constraint of the service model."""
    raise constraint_broken(value, member, constraint)


def not_found(message: str) -> NoReturn:
    """Refuse a call that names something which does not exist."""
    raise ApiError("ResourceNotFoundException", message)


def in_use(message: str) -> NoReturn:
    """Refuse a call that has to wait until the resource is ACTIVE, or whose name is taken."""
    raise ApiError("ResourceInUseException", message)


def limit_exceeded(message: str) -> NoReturn:
    """Refuse a control call that would exceed a quota."""
    raise ApiError("LimitExceededException", message)
