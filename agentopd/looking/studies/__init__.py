"""One page over several studies: what each arm changes against the sick one, and its cause.

    write_overview(Path("runs/pathologies"))     # runs/pathologies/report.html

Each folder in it that holds a study's `summary.json` is a row.
"""

from agentopd.looking.studies.folders import holds_studies
from agentopd.looking.studies.page import write_overview

__all__ = ["holds_studies", "write_overview"]
