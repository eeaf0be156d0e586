"""The command line, ``truto-ci``."""
