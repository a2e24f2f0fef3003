from setuptools import setup

# cffi reads this key from setup() only; everything else stands in pyproject.toml.
setup(cffi_modules=["jupyter_ns/core/build.py:ffibuilder"])
