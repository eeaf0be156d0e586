"""The version. A constant, because reading the installed metadata takes as long as importing half of the package."""

__version__ = "0.1.0"
