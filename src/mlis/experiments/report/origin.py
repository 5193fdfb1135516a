"""Where the numbers come from: every run, versions, hashes, machines, and how to do it again."""

from collections import Counter
from collections.abc import Sequence

from mlis.experiments.report.html import cells, escape, section, table
from mlis.experiments.report.studies import Study
from mlis.experiments.store import Row

RUNS = 1000  # listed


def origin_section(studies: Sequence[Study]) -> str:
    """Data, versions and machines, commands, and the runs."""
    rows = [row for study in studies for row in study.rows]
    key = rows[0].key[:12]
    body = f"""{_facts(rows)}
<p>Any row can be done again from itself, everything trained anew, and is compared with what stands
here; on the same machine and versions every number must be the same. RESULTS is the folder that
this page was made from, the key is the row's, such as that of the first one:</p>
<pre tabindex="0"><code>mlis rerun {key} -o RESULTS</code></pre>
<p>What was not run yet, and this page:</p>
<pre tabindex="0"><code>{escape(_commands(studies))}
mlis report RESULTS -o report.html</code></pre>
{_runs(studies)}"""
    return section("origin", "Where the numbers come from", body)


def _commands(studies: Sequence[Study]) -> str:
    """`mlis reproduce` for the datasets of the page, budget by budget."""
    lines = {}
    for study in studies:
        arguments = study.main.first.task["dataset"]
        flags = " --data-root DIR" if "data_root" in arguments else ""
        flags += " --budget quick" if study.quick else ""
        name = str(arguments.get("name_or_path", study.name)).replace("\\", "/").rsplit("/", 1)[-1]
        seeds = ",".join(map(str, study.seeds[:20]))
        lines[f"mlis reproduce all --datasets {name}{flags} --seeds {seeds} -o RESULTS"] = None
    return "\n".join(lines)


def _facts(rows: Sequence[Row]) -> str:
    """What all rows have, counted."""
    facts = {
        "Data, SHA-256": Counter(
            f"{row.task['name']} {row.task['data_sha256']}"
            + "".join(f" ({note})" for note in row.provenance.get("notes", ()))
            for row in rows
        ),
        "Features": Counter(
            f"{row.task['name']}: {row.provenance.get('features') or 'not told'}; descriptors: "
            f"{row.provenance.get('descriptors') or 'not told'}"
            for row in rows
        ),
        "Versions": Counter(
            ", ".join(f"{k} {v}" for k, v in row.provenance.get("versions", {}).items())
            for row in rows
        ),
        "Machines": Counter(
            ", ".join(
                str(row.provenance.get(one, "?"))
                for one in ("device", "machine", "cpu", "product_dtype")
            )
            + " products"
            for row in rows
        ),
    }
    seconds = sum(float(row.cost.get("seconds") or 0) for row in rows)
    lines = "".join(
        f"<dt>{escape(name)}</dt>"
        + "".join(
            f"<dd>{escape(value)} <small>{count:,} runs</small></dd>"
            for value, count in found.most_common(12)
        )
        for name, found in facts.items()
    )
    spent = f"<dt>Time</dt><dd>{_time(seconds)} in all, each run with what it trained itself</dd>"
    return f'<dl class="facts">{lines}{spent}</dl>'


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _runs(studies: Sequence[Study]) -> str:
    """One line a run, up to `RUNS`."""
    found = [
        (study, series, row) for study in studies for series in study.series for row in series.rows
    ]
    rows = []
    for study, series, row in found[:RUNS]:
        refinement = series.config["refinement"]
        what = row.task["method"]
        if what == "mlis":
            what = f"{refinement['components']}, {refinement['loss']}"
        values = ["–" if row.test[m] is None else f"{row.test[m]:.2f}" for m in ("U", "S", "H")]
        facts = [study.label, what, str(row.task["seed"]), *values, row.protocol]
        facts += [series.config_sha256[:8], f"{float(row.cost.get('seconds') or 0):.0f}"]
        rows.append(cells(f"<code>{escape(row.key[:12])}</code>", facts))
    header = ("key", "dataset", "method", "seed", "U", "S", "H", "protocol", "settings", "s")
    shown = table(
        "Runs: key, measures in per cent, seconds", header, [f"<tbody>{''.join(rows)}</tbody>"]
    )
    left = f"<p>{len(found) - RUNS:,} more are in results.jsonl.</p>" if len(found) > RUNS else ""
    return f"<details><summary>All runs, one line each</summary>{shown}{left}</details>"
