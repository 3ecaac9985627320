"""Build the Cython kernels. The package's metadata is here because the setuptools of Python 3.6 reads no other place.

``XSTREAM_ABI3=1`` builds for the limited API of Python 3.11: one wheel for that Python and all later ones.
"""
import os
import re
import sys
from pathlib import Path
from typing import List

from Cython import __version__ as cython_version
from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

# pip's build backend doesn't add this file's folder to the path.
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent / "release")]
import pages  # noqa: E402

KERNELS = Path("xstream/kernels")
ABI3 = os.environ.get("XSTREAM_ABI3") == "1"
if ABI3 and sys.version_info < (3, 11):
    sys.exit("XSTREAM_ABI3=1 needs Python 3.11 or later: the limited API had no buffer protocol before")


class BuildKernels(build_ext):
    """build_ext without traces of the building Python in the shared objects."""

    def build_extensions(self) -> None:
        # A Python with a shared library has an rpath to it in its linker flags: a path of the building machine.
        self.compiler.linker_so = [flag for flag in self.compiler.linker_so if not flag.startswith("-Wl,-rpath")]
        super().build_extensions()

    def get_libraries(self, ext: Extension) -> List[str]:
        # Python 3.7 and older would add -lpython3.xm, which a statically linked Python doesn't have.
        return ext.libraries


def kernels() -> List[Extension]:
    """One extension for each .pyx, without debug information unless CFLAGS has -g."""
    debug = "-g" in os.environ.get("CFLAGS", "").split()
    return [
        Extension(
            "xstream.kernels." + path.stem,
            [str(path)],
            include_dirs=[str(KERNELS)],
            define_macros=[("Py_LIMITED_API", "0x030b0000")] if ABI3 else [],
            extra_compile_args=["-Werror=implicit-function-declaration"] + ([] if debug else ["-O3", "-g0"])
            + (["-include", str(KERNELS / "limited_api.h")] if ABI3 else []),
            extra_link_args=[] if debug else ["-Wl,--strip-all"],
            depends=[str(path) for pattern in ("*.h", "*.pxd") for path in sorted(KERNELS.glob(pattern))],
            py_limited_api=ABI3,
        )
        for path in sorted(KERNELS.glob("*.pyx"))
    ]


def version() -> str:
    found = re.search(r'^__version__ = "(.+)"$', Path("xstream/version.py").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        sys.exit("xstream/version.py names no version")
    return found.group(1)


# Upper bounds for Python 3.6: its pip may be too old to notice which versions support it.
NUMPY = ["numpy>=1.13,<1.20; python_version < '3.7'", "numpy>=1.14; python_version >= '3.7'"]
TQDM = ["tqdm>=4.19,<4.63; python_version < '3.7'", "tqdm>=4.19; python_version >= '3.7'"]
VOLATILITY = ["volatility3>=2.5; python_version >= '3.8'"]
FLEET = ["fsspec>=2021.7", "aiohttp>=3.7", "dask>=2022.2; python_version >= '3.8'",
         "distributed>=2022.2; python_version >= '3.8'"]
PARQUET = ["pyarrow>=7; python_version >= '3.7'"]
PICTURE = ["pillow>=5.1,<9; python_version < '3.7'", "pillow>=5.1; python_version >= '3.7'"]
# Older versions lack what tells where a frame ends.
ZSTD = ["zstandard>=0.19,<0.20; python_version < '3.7'",
        "zstandard>=0.19; python_version >= '3.7'"]
TEST = ["pytest>=6.2", "pytest-benchmark>=3.4", "hypothesis>=6.31",
        # Python 3.14's own zstd module, for older Pythons.
        "backports.zstd>=1; python_version >= '3.9' and python_version < '3.14'"]

setup(
    name="xen-xstream",
    version=version(),
    description="Read, check, write and convert Xen migration streams and save files, at the speed of memory",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The xstream authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["xen", "migration", "save", "restore", "libxc", "libxl", "hypervisor"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C",
        "Programming Language :: Cython",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
    ] + ["Programming Language :: Python :: 3.{}".format(minor) for minor in range(6, 14)] + [
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: System :: Emulators",
        "Topic :: Utilities",
        "Typing :: Typed",
    ],
    platforms=["Linux"],
    python_requires=">=3.6",
    # The command line has no requirements, so that a host without a network needs only this wheel.
    extras_require={"arrays": NUMPY, "fleet": FLEET, "parquet": PARQUET, "picture": NUMPY + PICTURE, "progress": TQDM,
                    "test": TEST + NUMPY + TQDM + PICTURE + ZSTD, "volatility": NUMPY + VOLATILITY, "zstd": ZSTD},
    # Not entry points: the programs that installers make of those load the module re first, which takes 5 ms.
    scripts=["bin/xstream", "bin/xstream-save-helper", "bin/xstream-convert-helper"],
    packages=find_packages(include=["xstream", "xstream.*"]),
    include_package_data=False,
    data_files=pages.write(Path("build/pages")),
    package_data={"xstream": ["py.typed", "*.pyi"], "xstream.kernels": ["*.pyi"]},
    zip_safe=False,
    # C code of one Cython version may not compile on the Pythons of another: one folder per version.
    ext_modules=cythonize(kernels(), language_level=3, build_dir="build/cython-" + cython_version),
    cmdclass={"build_ext": BuildKernels},
    # A separate build folder: otherwise the wheel would include modules that were built for one Python only.
    options={"bdist_wheel": {"py_limited_api": "cp311"}, "build": {"build_base": "build/abi3"}} if ABI3 else {},
)
