"""The package as users get it: regular and editable, from the root and from elsewhere, with and without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ["setup.py", "pyproject.toml", "README.md", "LICENSE", "alternet", "kernels", "analysis"]
SHOW = (
    "import alternet, alternet.kernels, alternet.analysis, alternet.kernels.attention as a; "
    "print(alternet.__file__); print(alternet.kernels.available_backends()['cpu'])"
)
# The environment of the tests has this checkout in editable mode; its import hook would find alternet._C for the copy.
WITHOUT_THIS_CHECKOUT = (
    "import sys; sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]; "
)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ALTERNET_", "PYTHONPATH"))}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources as a clone has them: nothing built, the links kept."""
    folder = tmp_path_factory.mktemp("clone")
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignore = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
            shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / part, folder / part)
    return folder


def wheel(source: Path, out: Path, **environment: str) -> Path:
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", out, source,
        cwd=out, **environment,
    )  # fmt: skip
    return next(out.glob("*.whl"))


def test_regular_install_works_elsewhere_and_claims_one_name(source, tmp_path):
    built = wheel(source, tmp_path, ALTERNET_NATIVE="skip")
    names = zipfile.ZipFile(built).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"alternet"}
    assert len(names) == len(set(names))
    assert sum(name.endswith("/attention/reference.py") for name in names) == 1
    target = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, built, cwd=tmp_path)
    told = run(sys.executable, "-c", WITHOUT_THIS_CHECKOUT + SHOW, cwd=tmp_path, PYTHONPATH=str(target))
    assert str(target) in told
    assert "the C++ extension is not built" in told


def test_a_broken_compiler_leaves_a_working_package_that_says_why(source, tmp_path):
    built = wheel(source, tmp_path, CXX="/bin/false", CC="/bin/false")
    assert not any(name.endswith(".so") for name in zipfile.ZipFile(built).namelist())
    with pytest.raises(AssertionError, match="rror"):
        wheel(source, tmp_path, CXX="/bin/false", CC="/bin/false", ALTERNET_NATIVE="require")


def test_import_from_the_root_and_from_elsewhere_is_the_same_package(tmp_path):
    """This checkout is installed in editable mode by `make`."""
    here, elsewhere = (run(sys.executable, "-c", SHOW, cwd=folder) for folder in (ROOT, tmp_path))
    assert here.splitlines()[-2:] == elsewhere.splitlines()[-2:]


def test_the_bare_name_kernels_is_refused():
    done = subprocess.run([sys.executable, "-c", "import kernels"], cwd=ROOT, capture_output=True, text=True)
    assert "import it as alternet.kernels" in done.stderr


def test_without_triton_the_rest_works(tmp_path):
    program = (
        "import sys; sys.modules['triton'] = None; import torch; from alternet.kernels import *; "
        "x = torch.ones(1, 1, 2, 2); print(tuple(attention(x, x, x).shape), available_backends()['triton'])"
    )
    assert "(1, 1, 2, 2) the package triton is not installed" in run(sys.executable, "-c", program, cwd=tmp_path)


def test_ci_has_the_native_kernels():
    """A build that fails quietly must not turn CI into a test of the fallback."""
    from alternet.kernels import available_backends

    if os.environ.get("ALTERNET_NATIVE") == "require":
        assert available_backends()["cpu"] is None


def test_info_tells_every_backend_and_why(tmp_path):
    told = run(sys.executable, "-m", "alternet", "info", cwd=tmp_path)
    for name in ("reference", "cpu", "triton"):
        assert name in told
