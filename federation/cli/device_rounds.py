"""The commands of `tacit device` about federated rounds: allow-rounds, budget, identity."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.owner.modes import MODES, OPEN, PRIVATE
from federation.cli.console import print_json
from federation.cli.device_shared import json_option, opened, opened_store, path_argument, plural, print_table
from federation.cli.unlock import Unlocking, unlock_options
from federation.rounds.config import MODE_NOTICES

if TYPE_CHECKING:
    from engine.owner.account import Limits, Spent

ANY = "any"
DELTA_SHOWN = "1e-05"


def _as_count(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | str | None:
    """A whole number from 0 on, or the word for no limit."""
    if value is None or value == ANY:
        return value
    if not (value.isascii() and value.isdigit() and len(value) < 16):
        raise click.BadParameter(f"{value!r} is neither a whole number from 0 on nor '{ANY}'.")
    return int(value)


def _as_epsilon(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | str | None:
    """A number from 0 on, or the word for no limit."""
    if value is None or value == ANY:
        return value
    try:
        epsilon = float(value) if value.isascii() else math.nan
    except ValueError:
        epsilon = math.nan
    if not 0 <= epsilon < math.inf:
        raise click.BadParameter(f"{value!r} is neither a number from 0 on nor '{ANY}'.")
    return epsilon


def _as_delta(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise click.BadParameter(f"{value:g} does not lie between 0 and 1.")
    return value


delta_option = click.option(
    "--delta", type=float, callback=_as_delta, metavar="D", help=f"The δ of each ε.  [default: {DELTA_SHOWN}]"
)


@click.command(name="allow-rounds")
@path_argument
@click.argument("mode", type=click.Choice([*reversed(MODES), "none"]))
@json_option
@unlock_options
def allow_rounds(path: Path, mode: str, as_json: bool, unlocking: Unlocking) -> None:
    """Allow federated rounds in a MODE and in stronger ones, or none, which is the default of a new device.

    In the mode "private" the server sees sums over many devices, with noise that these added. In "central" it sees this
    device's clipped updates, and is trusted to add noise to what it releases. In "open" it sees them, and nothing
    bounds what it learns. Texts, labels and vectors never leave. A weaker mode than MODE is refused.

    With "private" and "central" a device that has no limit of ε gets one: 8 in all, at δ = 1e-05 (`tacit device
    budget`).
    """
    allowed = None if mode == "none" else mode
    with opened(path, unlocking) as device:
        device.allow_rounds(allowed)
        limits, trusted = device.account.limits, device.publisher
    if as_json:
        print_json({"allowed_rounds": allowed})
        return
    click.echo(f"Federated rounds: {rounds_in_words(allowed)}.")
    if allowed is not None and limits.bound_rho:
        click.echo(f"Limits: {limits_in_words(limits)}.".replace("\n", "; "))
        if allowed == OPEN:
            click.echo("Nothing bounds what an open round costs, so with a limit of ε it takes part in others only.")
    if allowed == PRIVATE and trusted is None:
        click.echo("It trusts no publisher, who says which devices there are: name one with `tacit device publisher`.")


def rounds_in_words(mode: str | None) -> str:
    """Return what the owner allowed."""
    return "none allowed" if mode is None else f"allowed ({MODE_NOTICES.get(mode, mode)})"


def limits_in_words(limits: "Limits") -> str:
    """Return the owner's limits in a line or two, the second about ε."""
    counts = f"{_counted(limits.lifetime)} in all, {_counted(limits.week)} a week"
    if not limits.bound_rho:
        return counts
    in_all, a_week = (_allowed_in_words(rho) for rho in (limits.rho, limits.rho_week))
    return f"{counts}\nε {in_all} in all, {a_week} a week, at δ = {DELTA_SHOWN}"


def epsilon_in_words(epsilon: float) -> str:
    """Return an ε to three digits, or that there is next to none."""
    return "under 0.001" if 0 < epsilon < 0.001 else f"{epsilon:.3g}"


@click.command()
@path_argument
@click.option("--lifetime", callback=_as_count, metavar="N|any", help="Allow so many contributions in all.")
@click.option("--week", callback=_as_count, metavar="N|any", help="Allow so many contributions a week.")
@click.option("--epsilon", callback=_as_epsilon, metavar="E|any", help="Allow contributions up to this ε in all.")
@click.option("--epsilon-week", callback=_as_epsilon, metavar="E|any", help="Allow contributions up to this ε a week.")
@delta_option
@json_option
@unlock_options
def budget(
    path: Path,
    lifetime: int | str | None,
    week: int | str | None,
    epsilon: float | str | None,
    epsilon_week: float | str | None,
    delta: float | None,
    as_json: bool,
    unlocking: Unlocking,
) -> None:
    """Show or set what the device at PATH may give to federated rounds: how many contributions, and what they cost.

    A contribution counts before it leaves, even if the round then fails; an older copy of the device gets none back.
    At its limit the device abstains, and the round goes on without it. Weeks begin on Thursday at 0:00 UTC.

    What contributions cost is kept as ρ (zero-concentrated differential privacy), which adds up, and shown as the ε of
    all of them together; "left" is by how much that may still grow. In open mode nothing bounds what one costs: with a
    limit of ε a device takes no part in such rounds.
    """
    from engine.owner.account import Account, Limits
    from engine.owner.rho import DELTA, rho_of

    at = DELTA if delta is None else delta
    wishes = (lifetime, week, epsilon, epsilon_week)
    with opened_store(path, unlocking) as store:
        account, now = Account(store), time.time()
        if any(wish is not None for wish in wishes):
            with store.transaction():
                before = account.limits
                wished = Limits(
                    lifetime=_wished(lifetime, before.lifetime),
                    week=_wished(week, before.week),
                    rho=_wished_rho(epsilon, before.rho, lambda wish: rho_of(wish, at)),
                    rho_week=_wished_rho(epsilon_week, before.rho_week, lambda wish: rho_of(wish, at)),
                )
                account.limit(wished, now=now)
        limits, spent = account.limits, account.spent
    if as_json:
        print_json(_budget_as_json(limits, spent, now=now, delta=at))
        return
    _print_budget(limits, spent, now=now, delta=at)


@click.command()
@path_argument
@json_option
@unlock_options
def identity(path: Path, as_json: bool, unlocking: Unlocking) -> None:
    """Print the public key by which others know the device at PATH in private rounds; made at the first use.

    It goes on the list of devices that the publisher signs (`tacit publisher roster`), and says nothing of the user.
    """
    from engine.owner.stage import Stage
    from federation.secagg.keys import SigningKey

    with opened_store(path, unlocking) as store:
        public = SigningKey(Stage(store).identity()).public.hex()
    if as_json:
        print_json({"identity": public})
        return
    click.echo(public)


def _print_budget(limits: "Limits", spent: "Spent", *, now: float, delta: float) -> None:
    rows = []
    for term, given, allowed, rho, rho_allowed in _terms(limits, spent, now):
        figures = _epsilons(rho, rho_allowed, delta)
        rows.append((term, str(given), _counted(allowed), *(_in_words(figure) for figure in figures.values())))
    columns = ("contributions", "given", "allowed", "ε spent", "ε allowed", "ε left")
    print_table(columns, rows, right=columns[1:])
    click.echo(f"ε at δ = {delta:g}.")
    if spent.unbounded:
        count = plural(spent.unbounded, "contribution")
        click.echo(f"Nothing bounds what {count} in open mode told the server: no ε covers {_them(spent.unbounded)}.")


def _them(number: int) -> str:
    return "it" if number == 1 else "them"


def _budget_as_json(limits: "Limits", spent: "Spent", *, now: float, delta: float) -> dict[str, object]:
    told = [
        {
            "given": given,
            "allowed": allowed,
            "epsilon": _epsilons(rho, rho_allowed, delta),
            "rho": {"spent": rho, "allowed": rho_allowed},
        }
        for _, given, allowed, rho, rho_allowed in _terms(limits, spent, now)
    ]
    return {"lifetime": told[0], "week": told[1], "delta": delta, "unbounded": spent.unbounded}


def _terms(limits: "Limits", spent: "Spent", now: float) -> list[tuple[str, int, int | None, float, float | None]]:
    """(term, contributions, allowed, ρ, allowed) in all and this week."""
    return [
        ("in all", spent.lifetime, limits.lifetime, spent.rho, limits.rho),
        ("this week", spent.in_week_at(now), limits.week, spent.rho_in_week_at(now), limits.rho_week),
    ]


def _epsilons(rho: float, allowed: float | None, delta: float) -> dict[str, float | None]:
    from engine.owner.rho import epsilon_of

    spent = epsilon_of(rho, delta)
    if allowed is None:
        return {"spent": spent, "allowed": None, "left": None}
    most = epsilon_of(allowed, delta)
    return {"spent": spent, "allowed": most, "left": max(0.0, most - spent)}


def _in_words(epsilon: float | None) -> str:
    return ANY if epsilon is None else epsilon_in_words(epsilon)


def _allowed_in_words(rho: float | None) -> str:
    from engine.owner.rho import epsilon_of

    return ANY if rho is None else epsilon_in_words(epsilon_of(rho))


def _counted(limit: int | None) -> str:
    return ANY if limit is None else str(limit)


def _wished(wish: int | str | None, before: int | None) -> int | None:
    if wish is None:
        return before
    return None if isinstance(wish, str) else wish


def _wished_rho(wish: float | str | None, before: float | None, as_rho: Callable[[float], float]) -> float | None:
    if wish is None:
        return before
    return None if isinstance(wish, str) else as_rho(wish)
