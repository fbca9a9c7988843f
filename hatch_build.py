"""Compiles `shared/compiled` while headrace is installed, where there is a C compiler; it does without it elsewhere.

Settings of the environment: `CC` names the compiler (and its first arguments), `CFLAGS` adds to ours, and
`HEADRACE_COMPILED` says what to do: `require` fails without a compiler, `off` does not compile.
"""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # who only compiles needs no hatchling
    BuildHookInterface = object

_ROOT: Final = Path(__file__).resolve().parent
_FOLDER: Final = Path("shared", "compiled")
_FLAGS: Final = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-fstack-protector-strong")
_WARNINGS: Final = ("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-sign-conversion")
_COMPILERS: Final = ("cc", "gcc", "clang")
_COMPILE_SECONDS_MAX: Final = 300


def sources_digest() -> str:
    """Return what tells these sources from others; the module has it as `SOURCES`."""
    folder = _ROOT / _FOLDER
    digest: str = runpy.run_path(str(folder / "sources.py"))["sources_digest"](folder)
    return digest


def module_name() -> str:
    """Return the file name of the module for this Python."""
    return f"_columns{sysconfig.get_config_var('EXT_SUFFIX')}"


def find_compiler() -> list[str] | None:
    """Return the command of a C compiler: `CC`, or the first one on the path; None if there is none."""
    if named := os.environ.get("CC"):
        return shlex.split(named)
    found = next(filter(None, map(shutil.which, _COMPILERS)), None)
    return [found] if found else None


def compile_module(target: Path, compiler: list[str], flags: tuple[str, ...] = ()) -> None:
    """Compile the module to `target`; CalledProcessError, with the compiler's own words on stderr, if that fails."""
    sources = sorted(map(str, (_ROOT / _FOLDER).glob("*.c")))
    include = f"-I{sysconfig.get_path('include')}"
    platform = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()
    own = shlex.split(os.environ.get("CFLAGS", ""))
    digest = f'-DSOURCES="{sources_digest()}"'
    # Written beside its place and then moved: a process that runs with the old one keeps it.
    part = target.with_name(f".{target.name}.{os.getpid()}")
    command = [*compiler, *_FLAGS, *_WARNINGS, *platform, *flags, *own, digest, include, *sources, "-o", str(part)]
    try:
        subprocess.run(command, check=True, timeout=_COMPILE_SECONDS_MAX)  # noqa: S603 - the user's own compiler
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def build() -> Path | None:
    """Compile the module into its package; None if it is not wanted, or can't be made and is not required."""
    wish = os.environ.get("HEADRACE_COMPILED", "").lower()
    target = _ROOT / _FOLDER / module_name()
    if wish == "off":
        target.unlink(missing_ok=True)
        return None
    compiler = find_compiler()
    try:
        if compiler is None:
            raise FileNotFoundError("no C compiler: neither CC nor any of cc, gcc and clang is there")
        compile_module(target, compiler)
    except (OSError, subprocess.SubprocessError) as error:
        target.unlink(missing_ok=True)  # of other sources, perhaps
        if wish == "require":
            raise
        sys.stderr.write(f"headrace goes without its compiled part: {error}\n")
        return None
    return target


class CompiledHook(BuildHookInterface):  # type: ignore[misc] # hatchling is there only while it builds
    """What hatchling runs before it packs a wheel, or before it installs the source tree as it stands."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the result packed into a wheel that is for this platform only."""
        del version
        target = build()
        if target is not None:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["artifacts"].append(f"/{_FOLDER.as_posix()}/{target.name}")
