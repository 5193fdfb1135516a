"""Parts of the page that are words and numbers: title, measures, table, method, protocol."""

from mlis.demo.findings import Findings, Method
from mlis.escape import html as escape

_ABOUT = {
    "chance": "a letter drawn at random",
    "ridge prototypes": "each letter's mean features predicted from its description by kernel "
    "ridge regression; the nearest ones win",
    "raw-feature softmax": "the same imagined features and the same classifier, without refinement",
    "mlis": "refined features, then the same classifier",
}


def title(findings: Findings, example: str) -> str:
    """Heading, what this is in two sentences, and the worked example."""
    dataset = findings.data.dataset
    seen, unseen = len(dataset.seen_classes), len(dataset.unseen_classes)
    return f"""<header>
<p class="eyebrow">mlis demo · generalized zero-shot recognition</p>
<h1>Letters it never saw</h1>
<p class="lede">A recognizer learned {seen} accented letters from pictures. {unseen} more were only
described to it, by their parts. Then it had to name new pictures of all {seen + unseen}.</p>
{example}
</header>"""


def numbers(findings: Findings) -> str:
    """U, S, H and chance, each with what it means."""
    measures = findings.methods[-1].measures
    total = findings.data.dataset.num_classes

    def cell(style: str, value: str, name: str, text: str) -> str:
        return (
            f'<div class="{style}"><b>{value}<small> %</small></b>'
            f"<span><strong>{name}</strong> {text}</span></div>"
        )

    return "\n".join(
        [
            '<div class="stats">',
            cell(
                "u",
                f"{measures['U']:.1f}",
                "U",
                "of pictures of never-seen letters are named right",
            ),
            cell(
                "s", f"{measures['S']:.1f}", "S", "of new pictures of seen letters are named right"
            ),
            cell("h", f"{measures['H']:.1f}", "H", "their harmonic mean: high only if both are"),
            cell("c", f"{100 / total:.1f}", "chance", f"one letter out of {total}"),
            "</div>",
        ]
    )


def table_section(findings: Findings) -> str:
    """U, S, H, T1 of all methods, on the same test images."""
    rows = "".join(_row(method, method is findings.methods[-1]) for method in findings.methods)
    unseen = len(findings.data.dataset.unseen_classes)
    return f"""<section>
<h2>Against simpler ways</h2>
<p>The same pictures, descriptions and test for all. Accuracies in per cent, averaged over letters;
only T1 is the easier question, with the {unseen} never-seen letters as the only candidates.</p>
<div class="scroll"><table>
<thead><tr><th></th><th>U<br>never seen</th><th>S<br>seen</th><th>H<br>both</th>
<th>T1<br>never seen only</th></tr></thead>
<tbody>{rows}</tbody></table></div>
</section>"""


def _row(method: Method, ours: bool) -> str:
    cells = "".join(_cell(method.measures[name]) for name in ("U", "S", "H", "T1"))
    style = ' class="ours"' if ours else ""
    about = _ABOUT.get(method.name, "")
    return f"<tr{style}><th>{escape(method.name)}<small>{about}</small></th>{cells}</tr>"


def _cell(value: float) -> str:
    return f'<td>{value:.1f}<i class="bar" style="width:{value:.0f}%"></i></td>'


def how_it_works(findings: Findings) -> str:
    """The three stages in plain words."""
    imagine = {
        "ridge": "kernel ridge regression, with the variation borrowed from similar seen letters",
        "wgan-gp": "a small adversarial network",
    }[findings.config.generation.generator]
    return f"""<section>
<h2>How that is possible</h2>
<ol class="steps">
<li><b>Describe</b>Each letter is a list of {len(findings.data.parts)} yes-or-no parts, read off its
Unicode name: its case, its base letter, its marks. That is all that is known of a never-seen
letter.</li>
<li><b>Imagine and refine</b>Features of never-seen letters are imagined from their descriptions
({imagine}). An encoder then learns to draw pictures of one letter together and to push similar
letters apart, steered by the descriptions.</li>
<li><b>Name</b>A plain softmax classifier learns from refined features, real and imagined. To name
a picture it needs no description: only the picture.</li>
</ol>
</section>"""


def how_measured(findings: Findings) -> str:
    """The protocol in words."""
    dataset = findings.data.dataset
    split = dataset.split
    held_out = len({*dataset.labels[split.val_unseen].tolist()})
    return f"""<section>
<h2>How it was measured</h2>
<p>The {dataset.num_classes} accented letters are in all twelve DejaVu faces, and share each of
their parts with others. Drawn in every face with random shifts, rotations and noise they make
{len(dataset.features):,} pictures. A random fifth of
the letters is never seen; each of their parts occurs in seen letters. A picture becomes
{dataset.features.shape[1]} numbers by histograms of oriented gradients, a fixed recipe without
training.</p>
<p>{len(split.trainval):,} pictures of seen letters were trained on. {len(split.test_seen):,} other
pictures of seen letters and all {len(split.test_unseen):,} of never-seen letters are the test.
Settings, and the constant that balances seen against never-seen letters, were chosen with
{held_out} of the <em class="s">seen</em> letters held out as if unseen (protocol
{escape(findings.provenance["protocol"])}); this holds for the compared methods too. Nothing was
chosen on test pictures. The numbers on this page are those of one training run.</p>
</section>"""


def footer(findings: Findings) -> str:
    """Where the numbers come from."""
    facts = findings.provenance
    versions = ", ".join(f"{name} {v}" for name, v in facts["versions"].items())
    return f"""<footer>
<p>Made by <code>mlis demo</code> in {findings.seconds:.0f} s on {escape(facts["device"])}
({escape(facts["machine"])}, {escape(facts["product_dtype"])} products), pictures, training of
every method and test included. {escape(versions)}.</p>
<p>Data SHA-256 {facts["data_sha256"][:16]}…, settings SHA-256 {facts["config_sha256"][:16]}….
Letters drawn from the DejaVu fonts.</p>
</footer>"""
