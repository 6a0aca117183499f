"""Parquet files that are whole or not there, and that know when they are damaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentopd.base.files import writing


def write_table(rows: Mapping[str, Any], path: Path) -> None:
    """One file of columns; each page of it knows its checksum."""
    with writing(path) as beside:
        pq.write_table(pa.table(rows), beside, compression="zstd", write_page_checksum=True)


def read_table(path: Path) -> pa.Table:
    """What lies in a Parquet file.

    Raises:
        ValueError: it is damaged; the message names it.
    """
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is damaged ({why}): put a copy of it back, or choose another --step"
        ) from error
