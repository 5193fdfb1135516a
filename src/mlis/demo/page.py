"""The demo's page: one HTML file, no script, no network, light and dark, desktop and phone."""

from mlis.demo.findings import Findings
from mlis.demo.glyphs import symbols
from mlis.demo.maps import maps_section
from mlis.demo.pictures import answers_section, bars_section, confusions_section, worked_example
from mlis.demo.words import footer, how_it_works, how_measured, numbers, table_section, title
from mlis.pages import document, style_of


def render_page(findings: Findings) -> str:
    """The whole page as one string of HTML."""
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
    return document(
        "Letters it never saw – mlis demo",
        style_of("mlis.demo"),
        "\n".join(sections),
        before=symbols(findings.data.letters) + "\n",
    )
