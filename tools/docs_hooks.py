"""What `mkdocs build` does to the pages: sections of the README in their places."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARKER = re.compile(r"^<!-- from README\.md: (.+) -->$", re.M)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a section of the README in the place of each `<!-- from README.md: Heading -->`."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return MARKER.sub(lambda found: section(readme, found[1]), markdown)


def section(readme: str, heading: str) -> str:
    """What stands below `## heading`, or below the title; its links as `docs/` sees them.

    Raises:
        ValueError: there is no such heading.
    """
    _, after = re.split(rf"^##? {re.escape(heading)}\n", readme, maxsplit=1, flags=re.M)
    return re.split(r"^## ", after, maxsplit=1, flags=re.M)[0].strip().replace("](docs/", "](")
