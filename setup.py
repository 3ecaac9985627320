"""Build of the Cython kernels; the package's metadata lives here because the setuptools of Python 3.6 reads no other."""
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

extensions = [
    Extension(
        "xstream.kernels." + path.stem,
        [str(path)],
        include_dirs=["xstream/kernels"],
        extra_compile_args=["-O3", "-g0", "-Werror=implicit-function-declaration"],
        depends=[str(header) for header in sorted(Path("xstream/kernels").glob("*.h"))],
    )
    for path in sorted(Path("xstream/kernels").glob("*.pyx"))
]

setup(
    name="xen-xstream",
    version="0.1.0",
    packages=find_packages(include=["xstream", "xstream.*"]),
    python_requires=">=3.6",
    install_requires=["numpy>=1.13", "tqdm"],
    ext_modules=cythonize(extensions, language_level=3, build_dir="build/cython"),
)
