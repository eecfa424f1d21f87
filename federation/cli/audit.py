"""`tacit audit`: attacks on the running code, each with its figure, its limit and a verdict."""

import time
from pathlib import Path
from typing import Any

import click


@click.command(name="audit")
@click.option("--quick", is_flag=True, help="Less of everything, within a minute, and no processes of their own.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for audit.json and report.html.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings for a program.")
def command(quick: bool, out: Path | None, as_json: bool) -> None:
    """Attack the running code, and print what each attack found, what it may find at most, and the verdict.

    Texts and labels out of gradients, canary clients, membership, a server that lies, secrets on the wire, secrets
    asked of others. Exit status 8 if any finding is a breach. A finding without a limit is reported alone: it says what
    a server could see where nothing is promised. What each attack can see and what not stands in docs/audit.md.
    """
    from engine.encoders.encoder import load_encoder
    from federation.audit.suite import as_results, run_audits
    from federation.cli.console import print_json, progress
    from federation.cli.simulate import called
    from federation.errors import BreachError

    began = time.monotonic()
    found = run_audits(load_encoder(), quick=quick, progress=progress)
    results = as_results(found, quick=quick, seconds=time.monotonic() - began, command=called())
    if out is not None:
        from federation.report.audit import write_audit_report

        click.echo(f"Report: {write_audit_report(results, out)}", err=True)
    if as_json:
        print_json(results)
    else:
        print_audits(results)
    if results["breaches"]:
        breaches = [one["name"] for one in results["audits"] if one["verdict"] == "breach"]
        raise BreachError(f"{len(breaches)} of {len(found)} findings are breaches: {'; '.join(breaches)}.")


def print_audits(results: dict[str, Any]) -> None:
    """Print the findings as a table."""
    from federation.cli.device_shared import print_table
    from federation.report.audit import by_audit, cells

    rows: list[tuple[str, ...]] = []
    for audit, mine in by_audit(results["audits"]).items():
        rows.append((audit.capitalize(), "", "", ""))
        rows += [(f"  {name}", *rest) for name, *rest in map(cells, mine)]
    print_table(("", "figure", "at most", "verdict"), rows, right=("figure", "at most"))
    how = "quick" if results["quick"] else "full"
    click.echo(
        f"{len(results['audits'])} findings, {results['breaches']} breaches; a {how} run of {results['seconds']:.0f} s."
    )
