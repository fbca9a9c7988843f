"""How commands talk: data on stdout, everything else on stderr, errors as one line and a hint, no traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from shared.errors import HeadraceError, OutputError
from shared.lifecycle import ExitCode, pass_over_to_the_end
from shared.startup import INTERRUPTED


def normalise_options(arguments: Sequence[str]) -> list[str]:
    """Write option names with dashes, so that `--source_stream` and `--source-stream` are the same option."""
    normalised: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return normalised + list(arguments[index:])
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            normalised.append(name.replace("_", "-") + equals + value)
        else:
            normalised.append(argument)
    return normalised


def render_error(error: HeadraceError) -> str:
    """Return the lines a user sees: `error: ...`, and after an empty line `hint: ...`.

    What a terminal would obey is escaped: errors name keys and fields that somebody else chose.
    """
    text = f"error: {error}"
    text = f"{text}\n\nhint: {error.hint}" if error.hint else text
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


def say(text: str) -> None:
    """Write one line to stderr; a closed stderr, or a full disk behind it, is nobody's problem."""
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the one place that may
    except (OSError, ValueError):
        return


def write_data(text: str) -> None:
    """Write one line of data to stdout. Raises OutputError; BrokenPipeError goes to the caller, too."""
    with _writing():
        sys.stdout.write(text + "\n")


def flush_data() -> None:
    """Write out what stdout buffers; errors as of `write_data`."""
    with _writing():
        sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_stdout()
        message = f"stdout can't be written: {error.strerror or error}"
        raise OutputError(message, hint="What is missing there was not written; what was done is done") from error


def drop_stdout() -> None:
    """Write to nowhere from now on: nobody reads what stdout still buffers, and Python would complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def shows_progress() -> bool:
    """Whether progress may be drawn: only on a terminal, never under CI or NO_COLOR."""
    return sys.stderr.isatty() and not os.environ.get("CI") and "NO_COLOR" not in os.environ


def run_command(app: Callable[..., Any], arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a typer app to its exit code; errors of ours become a message, never a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = int(ExitCode.FAILED)
    try:
        result = app(args=normalise_options(given), standalone_mode=False)
        # A command that drained says itself how it ended; typer answers a KeyboardInterrupt with a plain number.
        is_interrupt = result == ExitCode.INTERRUPTED and not isinstance(result, ExitCode)
        code = _report_interrupt() if is_interrupt else int(result or ExitCode.DONE)
        flush_data()
    except HeadraceError as error:
        say(render_error(error))
        code = error.exit_code
    except BaseExceptionGroup as group:
        code = _report_group(group)
    except KeyboardInterrupt:
        code = _report_interrupt()
    except BrokenPipeError:
        drop_stdout()  # the reader of our stdout went away (`| head`): that is how pipes end
        code = int(ExitCode.DONE)
    except Exception as error:  # noqa: BLE001 - the outermost edge: what is not ours must still not be a traceback
        code = _report_foreign(error)
    pass_over_to_the_end()
    sys.exit(code)


def _report_foreign(error: Exception) -> int:
    """Report usage errors of the option parser in its own words, anything else as a defect of ours."""
    show = getattr(error, "format_message", None)
    if callable(show):
        say(f"error: {show()}")
        context = getattr(error, "ctx", None)
        if context is not None:
            say(f"\nhint: {context.command_path} --help")
        return int(getattr(error, "exit_code", ExitCode.USAGE))
    if type(error).__name__ == "Exit":
        return int(getattr(error, "exit_code", ExitCode.DONE))
    if type(error).__name__ == "Abort":
        return int(ExitCode.DONE)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        say(f"error: {error.strerror}\n\nhint: Make room, or write elsewhere")
        return int(ExitCode.FAILED)
    if os.environ.get("HEADRACE_DEBUG"):
        raise error
    where = _innermost_line(error)
    say(f"error: {type(error).__name__} at {where}: this is a defect of headrace\n\nhint: HEADRACE_DEBUG=1 shows more")
    return int(ExitCode.FAILED)


def _report_interrupt() -> int:
    """Report a Ctrl-C where no drain was under way, e.g., during start-up: what was asked for was not done."""
    say(INTERRUPTED)
    return int(ExitCode.INTERRUPTED)


def _report_group(group: BaseExceptionGroup[BaseException]) -> int:
    """Report the first error of ours among what a TaskGroup gathered."""
    ours = group.subgroup(HeadraceError)
    if ours is None:
        if group.subgroup(KeyboardInterrupt) is not None:
            return _report_interrupt()
        is_pipe = group.subgroup(BrokenPipeError) is not None
        return int(ExitCode.DONE) if is_pipe else _report_foreign(_first_leaf(group))
    error = _first_leaf(ours)
    assert isinstance(error, HeadraceError)
    say(render_error(error))
    return error.exit_code


def _first_leaf(group: BaseException) -> Exception:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group if isinstance(group, Exception) else RuntimeError(type(group).__name__)


def _innermost_line(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"  # noqa: PTH119 - a name only
