"""The compiled part under the compiler's own checks: reads beyond an end, undefined results, memory that is lost."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1", "-Werror")
# Runs pytest with the module that was built here in the place of the installed one.
RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("shared.compiled._columns", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["shared.compiled._columns"] = module
import pytest
sys.exit(pytest.main(["-q", "-m", "compiled", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/unit"]))
"""


@pytest.mark.slow
def test_nothing_is_read_beyond_an_end(tmp_path: Path) -> None:
    """Every test that holds C against Python runs under AddressSanitizer and UndefinedBehaviorSanitizer; no warning."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    compiler = script.find_compiler()
    if compiler is None:
        pytest.skip("there is no C compiler")
    runtime = subprocess.run(
        [*compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("the C compiler has no AddressSanitizer (as a shared library, as GCC's is)")
    target = tmp_path / script.module_name()
    script.compile_module(target, compiler, FLAGS)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(target)],
        cwd=ROOT,
        # Python keeps memory of its own until it ends: what is not given back tells nothing here.
        env={**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4_000:]
    assert " passed" in done.stdout
