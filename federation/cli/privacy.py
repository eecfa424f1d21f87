"""`tacit privacy`: the noise that a wanted ε needs, and what a run then guarantees. Needs no flwr."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from federation.cli.console import print_json

if TYPE_CHECKING:
    from federation.privacy.accounting import PrivacyGuarantee, PrivacyPlan
    from federation.privacy.parameters import NoiseParameters

_NOISES = {"discrete-gaussian": "discrete Gaussian", "skellam": "Skellam"}


@click.command(name="privacy")
@click.option("--devices", type=click.IntRange(1), required=True, metavar="N", help="Devices on the roster.")
@click.option("--cohort", type=click.IntRange(1), metavar="K", help="Drawn in a round, on average.  [default: all]")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, metavar="T", help="Rounds of the run.")
@click.option(
    "--participations",
    type=click.IntRange(1),
    metavar="k",
    help="The most of one device.  [default: what 1% of the devices would exceed]",
)
@click.option(
    "--epsilon",
    type=float,
    multiple=True,
    default=(1.0, 2.0, 4.0, 8.0),
    help="What to keep within.  [default: 1 2 4 8]",
)
@click.option("--delta", type=float, default=1e-5, show_default=True, help="How likely ε may fail to hold.")
@click.option(
    "--against",
    type=click.Choice(["server", "released"]),
    help="Whose ε --epsilon is.  [default: server; released in central mode]",
)
@click.option(
    "--mode", type=click.Choice(["private", "central"]), default="private", show_default=True, help="Who adds noise."
)
@click.option(
    "--noise", type=click.Choice(list(_NOISES)), default="discrete-gaussian", show_default=True, help="Its kind."
)
@click.option("--numbers", type=click.IntRange(1), default=10_000, show_default=True, help="Of an update.")
@click.option("--dropout", type=float, default=0.3, show_default=True, help="The share of a cohort that may drop out.")
@click.option(
    "--colluding", type=float, default=0.1, show_default=True, help="The share that tells the server its noise."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")
def command(epsilon: tuple[float, ...], against: str | None, as_json: bool, **given: Any) -> None:
    """Print the noise that each --epsilon needs, and both ε of the run it then is.

    A device's whole update counts. "server" is whoever sees which devices take part in which rounds; "released" is
    whoever sees the models alone. The noise z is a standard deviation, in clip norms; "on the mean" is how long the
    noise on a round's mean update is where nobody drops out, over all numbers, in clip norms too. Only the noise of the
    fewest honest devices that a lying server can unmask the sum of is counted on; what turns out too much once the
    devices agreed on the survivors they give back. Finding z may take half a minute, once.
    """
    from federation.agent.cohorts import honest_share, steady_share
    from federation.privacy.calibration import calibrate
    from federation.privacy.sampling import cohort_bounds

    dropout, colluding = given.pop("dropout"), given.pop("colluding")
    plan = _plan(**given)
    whose = against or ("released" if plan.mode == "central" else "server")
    floor, ceiling = cohort_bounds(plan.devices, plan.cohort)
    share = 1.0 if plan.mode == "central" else honest_share(floor, ceiling, dropout=dropout, colluding=colluding)
    steady = steady_share(floor, ceiling, dropout=dropout, colluding=colluding)
    rows = []
    for wanted in epsilon:
        z = calibrate(plan, wanted, against=whose)
        given_by, parameters = _guaranteed(plan, z, ceiling, share)
        rows.append((wanted, given_by, parameters, _where_all_stay(plan, parameters, steady)))
    if as_json:
        print_json(
            {
                "devices": plan.devices,
                "cohort": {"expected": plan.cohort, "floor": floor, "ceiling": ceiling, "honest_share": share},
                "against": whose,
                "mode": plan.mode,
                "numbers": plan.dimension,
                "rows": [_as_json(plan, *row) for row in rows],
            }
        )
        return
    _print(rows, plan, whose, f"{floor} to {ceiling} devices in a round but for 2 in 2^20 rounds", share)


def _plan(
    *,
    devices: int,
    cohort: int | None,
    rounds: int,
    participations: int | None,
    delta: float,
    mode: str,
    noise: str,
    numbers: int,
) -> "PrivacyPlan":
    from federation.privacy.accounting import PrivacyPlan
    from federation.privacy.sampling import participation_limit, sampling_rate

    q = sampling_rate(devices, cohort or devices)
    return PrivacyPlan(
        devices=devices,
        cohort=cohort or devices,
        rounds=rounds,
        participations=participations or max(1, participation_limit(rounds=rounds, q=q)),
        delta=delta,
        dimension=numbers,
        noise=_NOISES[noise],
        mode=mode,
    )


def _guaranteed(
    plan: "PrivacyPlan", z: float, ceiling: int, share: float
) -> "tuple[PrivacyGuarantee, NoiseParameters]":
    from federation.privacy.accounting import guarantee
    from federation.privacy.parameters import NoiseParameters

    parameters = NoiseParameters(
        dimension=plan.dimension,
        clip_norm=1.0,
        noise_multiplier=z,
        cohort=ceiling,
        honest_share=share,
        noise=plan.noise,
    )
    return guarantee(plan, z), parameters


def _where_all_stay(plan: "PrivacyPlan", parameters: "NoiseParameters", steady: float) -> "NoiseParameters":
    """The mechanism of a round of as many as are drawn on average, when they gave back what noise is too much."""
    from federation.privacy.excess import on_rung, rung_of

    likely = replace(parameters, cohort=plan.cohort)
    return likely if plan.mode == "central" else on_rung(likely, rung_of(likely, steady * plan.cohort))


def _on_the_mean(plan: "PrivacyPlan", parameters: "NoiseParameters") -> float:
    """The length of the noise on a round's mean update, in clip norms."""
    return parameters.noise_multiplier * math.sqrt(plan.dimension / parameters.honest_share) / plan.cohort


def _as_json(
    plan: "PrivacyPlan",
    wanted: float,
    given: "PrivacyGuarantee",
    parameters: "NoiseParameters",
    here: "NoiseParameters",
) -> dict[str, Any]:
    wrap = parameters.wrap_probability()
    return {
        "epsilon": wanted,
        **given.to_json(),
        "scale": parameters.scale,
        "honest_share_where_all_stay": here.honest_share,
        "noise_on_the_mean": round(_on_the_mean(plan, here), 6),
        "wrap_log2": math.log2(wrap) if wrap else None,
        "text": given.text,
    }


def _print(
    rows: "list[tuple[float, PrivacyGuarantee, NoiseParameters, NoiseParameters]]",
    plan: "PrivacyPlan",
    whose: str,
    sizes: str,
    share: float,
) -> None:
    from federation.cli.device_shared import print_table
    from federation.privacy.accounting import in_words

    _, first, _, here = rows[0]
    click.echo(
        f"{plan.devices} devices, q = {plan.q:g}, rounds: {plan.rounds}, of one device at most {plan.participations}; "
        f"{sizes}.\n{plan.mode} mode, {first.mechanism} noise, accounted by {first.method}, δ = {plan.delta:g}, "
        f"{plan.dimension} numbers; the noise of {share:.0%} of a round is counted on, of {here.honest_share:.0%} "
        "where nobody drops out."
    )
    columns = (f"ε wanted ({whose})", "z", "ε server", "ε released", "on the mean")
    cells = [
        (
            f"{wanted:g}",
            f"{given.z:.3f}",
            "none" if math.isinf(given.eps_server) else in_words(given.eps_server),
            in_words(given.eps_released),
            f"{_on_the_mean(plan, here):.2f}",
        )
        for wanted, given, _, here in rows
    ]
    print_table(columns, cells, right=columns)
