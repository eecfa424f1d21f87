"""What a run found, for people to read: `results.json`, a page with pictures, and a table for the terminal.

Guarantees: the page is one file that loads nothing else and runs no script; all that came from data is escaped;
the words "generated population" stand on each output of a generated one; a malformed `results.json` is a
`DataError` of one line.
"""

from federation.report.page import write_report
from federation.report.results import check_results, load_results, write_results
from federation.report.table import print_methods

__all__ = ["check_results", "load_results", "print_methods", "write_report", "write_results"]
