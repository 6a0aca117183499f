"""From the folder that a study or a run leaves to plots and one page that needs nothing else.

    write_report(Path("runs/units"))     # runs/units/report.html and runs/units/plots/*.png

A study folder holds `summary.json` with its arms; a run folder holds `metrics.jsonl`, and
`summary.json` once it has finished. The page is built from what is there.
"""

from agentopd.looking.report.page import write_report

__all__ = ["write_report"]
