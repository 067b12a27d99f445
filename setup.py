"""Three top-level folders make one import package, and the C++ kernels build where they can.

``kernels/`` installs as ``alternet.kernels`` and ``analysis/`` as ``alternet.analysis``: nothing called
``kernels`` or ``analysis`` is installed. ``ALTERNET_NATIVE`` says what to do about the C++ kernels:
``auto`` (default: build them, warn where that fails), ``require`` (fail instead), ``skip``.
"""

import os
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOTS = {"alternet": "alternet", "alternet.kernels": "kernels", "alternet.analysis": "analysis"}
NATIVE = os.environ.get("ALTERNET_NATIVE", "auto")
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DPy_LIMITED_API=0x030a0000"]


def packages():
    """Every package of the three folders, the in-tree links alternet/{kernels,analysis} left out."""
    links = [name.split(".", 1)[1] for name in ROOTS if "." in name]
    linked = [pattern for link in links for pattern in (link, f"{link}.*")]
    for name, folder in ROOTS.items():
        yield name
        found = find_packages(folder, exclude=linked if name == "alternet" else [])
        yield from (f"{name}.{package}" for package in found)


def native():
    """Arguments of ``setup`` that build ``alternet._C``; none where torch cannot be imported to build against."""
    if NATIVE not in ("auto", "require", "skip"):
        sys.exit(f"ALTERNET_NATIVE={NATIVE!r}: expected 'auto', 'require' or 'skip'")
    if NATIVE == "skip":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        if NATIVE == "require":
            raise
        print(f"alternet: the C++ kernels are not built, torch is not importable here: {error}", file=sys.stderr)
        return {}

    class Build(BuildExtension):
        """``Extension(optional=True)`` survives a missing compiler but not a failed ninja build; this survives both."""

        def run(self):
            try:
                super().run()
            except Exception as error:  # whatever a compiler, ninja or torch's checks may raise
                if NATIVE == "require":
                    raise
                print(f"alternet: the C++ kernels are not built: {error!r}", file=sys.stderr)
                self.extensions = []

        def copy_extensions_to_source(self):
            if self.extensions:
                super().copy_extensions_to_source()

        def get_outputs(self):
            return super().get_outputs() if self.extensions else []

    sources = sorted(str(path) for path in Path("kernels").rglob("*.cpp"))
    headers = sorted(str(path.resolve()) for path in Path("kernels").rglob("*.h"))
    extension = CppExtension(
        "alternet._C",
        sources,
        depends=headers,
        include_dirs=[str(Path("kernels").resolve())],
        # -ffp-contract=fast: products followed by sums, written as such in the kernels, become fused instructions
        extra_compile_args=["-O3", "-g0", "-std=c++20", "-fno-math-errno", "-ffp-contract=fast", *STABLE_ABI],
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(
    packages=list(packages()),
    package_dir=ROOTS,
    package_data={
        "alternet": ["py.typed"],
        "alternet.analysis.pages": ["*.html", "*.css"],
        "alternet.kernels": ["**/*.cpp", "**/*.h"],
    },
    **native(),
)
