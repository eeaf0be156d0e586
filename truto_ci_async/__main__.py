"""Starts ``truto-ci``, which ``python -m truto_ci_async`` is as well."""

from __future__ import annotations

import sys

from truto_ci_async.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
