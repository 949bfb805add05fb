"""The two lines of a card between which its text is ours; what an author wrote around it stays."""

from __future__ import annotations

import re

START = "<!-- csr_st: generated, edits between these two lines are overwritten -->"
END = "<!-- csr_st: end -->"
GENERATED = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
