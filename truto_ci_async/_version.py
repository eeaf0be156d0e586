"""The version, as a constant: reading it from the installed metadata takes as long as importing half the package."""

__version__ = "0.1.0"
