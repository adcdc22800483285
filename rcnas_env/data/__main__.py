"""`python -m rcnas_env.data NAME …`: download data sets. Loading one never does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rcnas_env.data.dataset import dataset_entry, known_datasets
from rcnas_env.data.download import download_dataset
from rcnas_env.data.storage import DATA_VARIABLE


def main(arguments: Sequence[str] | None = None) -> int:
    """Download the data sets named on the command line; returns the exit status."""
    published = sorted(name for name in known_datasets() if dataset_entry(name).files)
    parser = argparse.ArgumentParser(prog="python -m rcnas_env.data", description="Download data sets, checked.")
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"one of {', '.join(published)}")
    parser.add_argument(
        "--folder", type=Path, help=f"where to (default: ${DATA_VARIABLE}, else rcnas/data in the user's cache)"
    )
    given = parser.parse_args(arguments)
    try:
        for name in given.names:
            download_dataset(name, given.folder)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
