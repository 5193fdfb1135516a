"""The demo's page: one HTML file, no script, no network, light and dark, desktop and phone."""

from importlib import resources

from mlis.demo.findings import Findings
from mlis.demo.glyphs import symbols
from mlis.demo.maps import maps_section
from mlis.demo.pictures import answers_section, bars_section, confusions_section, worked_example
from mlis.demo.words import footer, how_it_works, how_measured, numbers, table_section, title

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{symbols}
<main>
{body}
</main>
</body>
</html>
"""


def render_page(findings: Findings) -> str:
    """The whole page as one string of HTML."""
    style = resources.files("mlis.demo").joinpath("style.css").read_text(encoding="utf-8")
    sections = [
        title(findings, worked_example(findings)),
        numbers(findings),
        answers_section(findings),
        table_section(findings),
        how_it_works(findings),
        bars_section(findings),
        confusions_section(findings),
        maps_section(findings),
        how_measured(findings),
        footer(findings),
    ]
    return _PAGE.format(
        title="Letters it never saw – mlis demo",
        style=style,
        symbols=symbols(findings.data.letters),
        body="\n".join(sections),
    )
