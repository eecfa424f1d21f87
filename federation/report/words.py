"""Figures and foreign text as a person reads them, the same in the page and in the terminal.

>>> share(0.5136), points(0.0561), size(1_234_567), plain("a\\x1b[31mb")
('51.4%', '+5.6', '1.2 MB', 'a\ufffd[31mb')
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.owner.modes import CENTRAL, MODES, OPEN, PRIVATE

GENERATED = "generated population"
METHODS = {
    "most_frequent": "The user's most frequent label",
    "global": "Global model",
    "local": "Local only",
    "fedavg": "FedAvg",
    "knn_per": "kNN-Per",
    "fedrep": "FedRep",
    "fedavg_finetuned": "FedAvg, fine-tuned",
    "ditto": "Ditto",
    "no_rounds": "Personalized, no rounds",
    "cautious": "Personalized, cautious",
    "personal": "Personalized",
}
SCOPE_METHODS = {
    "max_probability": "Highest probability",
    "energy": "Energy",
    "nearest": "Nearest memory",
    "personal": "The device's own score",
}
CALIBRATION = (
    "ECE: expected calibration error over 15 bins of equally many answers, the gap between how sure a method is and "
    "how often it is right. NLL: the mean negative log of the probability of the true label, where that is public."
)
GRADED = (
    "Any: the first answer is one of the accepted ones. NDCG@5: accepted answers count 1, 1/2, 1/3 … from the best on."
)
_JOINERS = "\u200c\u200d"  # Persian words and many emoji need them.
_USES_ROUNDS = ("global", "cautious", "personal")
_STAYS = ("most_frequent", "local", "no_rounds")
WHAT_LEFT = {
    OPEN: (
        "Each reply to the server held one float32 array of fixed length (the flattened global model plus the device's "
        "clipped change; in the last rounds the clipped statistics by which devices learn how to personalize) and the "
        "constant weight 1, and nothing else: no text, no label of the user's own, no accuracy. The server sees each "
        "of these arrays, and nothing bounds what it can learn from them."
    ),
    CENTRAL: (
        "Each reply to the server held one float32 array of fixed length (what the device contributes, clipped, added "
        "to what the server had sent) and the constant weight 1, and nothing else: no text, no label of the user's "
        "own, no accuracy. The server sees each of these arrays and is trusted to add noise to what it releases."
    ),
    PRIVATE: (
        "A device in a round sends the six messages of a secure sum, each of fixed size: keys with a promise, what "
        "keeps the promise, shares of its masks' secrets that only other devices can open, one masked array, a "
        "signature on who is still there, and shares by which the sum is unmasked, with keys of noise that turned out "
        "too much. Only the masked array depends on what the device remembers: what it contributes, clipped, with its "
        "part of the noise, under masks that vanish in the sum over many devices alone. No text, no label of the "
        "user's own, no accuracy, no number of memories."
    ),
}
WHAT_CHOICES_LEFT = (
    "Each reply to the server held one float32 array of fixed length (clipped sums over the device's choices of listed "
    "items) and the constant weight 1, and nothing else: no text, no item that is not listed, no accuracy. The server "
    "sees each of these arrays, and nothing bounds what it can learn from them."
)
MORE_DEVICES = "docs/results.md, “Accuracy under privacy”"
HURT = (
    "Hurt: the share of devices less accurate than by the global model; significantly, where the paired z lies below "
    "−1.64. Worst tenth: the mean accuracy over the tenth of devices that fare worst."
)


def share(value: float | None) -> str:
    """Write a share from 0 to 1 as per cent with one decimal, or a dash for nothing."""
    return "–" if value is None else f"{100 * value:.1f}%"


def points(value: float | None) -> str:
    """Write a difference of shares in percentage points, with its sign; zero has none."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}".replace("-", "−")
    return text[1:] if text[1:] == "0.0" else text


def size(size_bytes: float | None) -> str:
    """Write a size in powers of 1000."""
    if size_bytes is None:
        return "–"
    amount = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.95 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def count(number: int, noun: str) -> str:
    """Write a number with its noun, in the plural unless it is one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def plain(text: object) -> str:
    """Return foreign text on one line, what would steer a terminal or hide in a page replaced by �."""
    return "".join(c if c.isprintable() or c in _JOINERS else " " if c.isspace() else "\ufffd" for c in str(text))


def method_rows(
    block: Mapping[str, Any], sent_per_device: float | None
) -> Iterator[tuple[str, Mapping[str, Any], float | None]]:
    """Yield the methods that a block has, in the order of `METHODS`: name, figures, bytes sent per device.

    The methods that stay on the device send nothing; of published ones that use rounds it is not measured. The
    global model, which the others are held against, hurts nobody by definition, so it has no such figure.
    """
    for name in METHODS:
        if name in block["methods"]:
            figures = dict(block["methods"][name])
            if name == "global":
                figures = {key: value for key, value in figures.items() if not key.startswith("hurt")}
            sends = sent_per_device if name in _USES_ROUNDS else 0 if name in _STAYS else None
            yield name, figures, sends


def bytes_of(block: Mapping[str, Any], results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the bytes that a block states, else those of the whole results, else nothing."""
    found: Mapping[str, Any] = block.get("bytes") or results.get("bytes") or {}
    return found


def mode_of(results: Mapping[str, Any]) -> str:
    """Return the mode whose notice the results carry; nothing where it is no notice of a mode."""
    mode = str(results["mode"]).partition(":")[0]
    return mode if mode in MODES else ""


def what_left_sentence(results: Mapping[str, Any]) -> str:
    """Say what the devices of these results sent; nothing where the mode is unknown."""
    mode = mode_of(results)
    return WHAT_CHOICES_LEFT if mode == OPEN and results.get("kind") == "choice" else WHAT_LEFT.get(mode, "")


def epsilon(value: float | None) -> str:
    """Write an ε to two places, rounded up so that it holds; nothing bounds it where there is none.

    >>> epsilon(3.99856), epsilon(None)
    ('4.00', '∞')
    """
    return "∞" if value is None else f"{math.ceil(value * 100) / 100:.2f}"


def privacy_rows(block: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return both ε of a block, each with what it is against; nothing for results from before they were stated."""
    if "privacy" not in block:
        return []
    its = block["privacy"]
    named = (("ε against the server", its["eps_server"]), ("ε of the released model", its["eps_released"]))
    at = "" if its["delta"] is None else f" (δ = {its['delta']:g})"
    return [(what, epsilon(value) + ("" if value is None else at)) for what, value in named]


def privacy_sentence(block: Mapping[str, Any]) -> str:
    """Say both ε of a block in one sentence; nothing for results from before they were stated."""
    if "privacy" not in block:
        return ""
    its = block["privacy"]
    at = "" if its["delta"] is None else f", δ = {its['delta']:g}"
    server, released = epsilon(its["eps_server"]), epsilon(its["eps_released"])
    return f"ε = {server} against the server, ε = {released} of the released model{at}"


def accounted(block: Mapping[str, Any]) -> str:
    """Say what the ε of a block rest on, on one line; nothing where there is no noise."""
    its = block.get("privacy")
    return "" if its is None or its["eps_released"] is None else plain(its["text"])


def cost_sentence(results: Mapping[str, Any]) -> str:
    """Say what privacy cost the people of a comparison of modes, and where more people stand; nothing for one mode."""
    if "cost" not in results:
        return ""
    private, beside = results["runs"][PRIVATE], results["runs"][OPEN]
    lost = {name: f"{points(cost[0])} points" if cost[0] > 0 else "nothing" for name, cost in results["cost"].items()}
    both = {
        name: f"{share(private['methods'][name]['accuracy'])} instead of {share(beside['methods'][name]['accuracy'])}"
        for name in lost
    }
    _, low, high = results["cost"]["personal"]
    return (
        f"In accuracy, privacy costs these {count(len(private['devices']), 'device')} {lost['personal'].lstrip('+')} "
        f"personalized ({both['personal']}; 95% interval {points(low)} to {points(high)}) and "
        f"{lost['global'].lstrip('+')} in the shared model ({both['global']}). The noise that hides one device is the "
        f"same for few and for many, so more devices lose less: {MORE_DEVICES}."
    )


def versus_sentence(block: Mapping[str, Any]) -> str:
    """Say how the personalized model stands to the best of the published methods; nothing where none was run."""
    if "versus_best_baseline" not in block:
        return ""
    name, (mean, low, high) = block["versus_best_baseline"]["name"], block["versus_best_baseline"]["accuracy"]
    return f"Personalized minus {METHODS[name]}: {points(mean)} points (95% interval {points(low)} to {points(high)})"


def gain_sentence(block: Mapping[str, Any]) -> str:
    """Say the gain of personalization with its interval, in percentage points."""
    mean, low, high = block["gain"]["accuracy"]
    return f"{points(mean)} points (95% interval {points(low)} to {points(high)})"


def refused_sentence(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Say which rounds the server undid; nothing where it undid none."""
    undone = [str(one["round"]) for one in rounds if "refused" in one]
    if not undone:
        return ""
    what = "Round" if len(undone) == 1 else "Rounds"
    verb = "was" if len(undone) == 1 else "were"
    return f"{what} {', '.join(undone)} {verb} undone: what came in cannot be, or ruined the model on public texts."


def finer_columns(block: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (key, heading) of the finer figures that any method of a block has: calibration, accepted answers."""
    columns = [("accuracy_any", "Any"), ("ndcg_at_5", "NDCG@5"), ("ece", "ECE"), ("nll", "NLL")]
    return [(key, head) for key, head in columns if any(key in figures for figures in block["methods"].values())]


def finer(figures: Mapping[str, Any], key: str) -> str:
    """Write one of these figures, or a dash for nothing."""
    return "–" if key not in figures else share(figures[key]) if key == "accuracy_any" else f"{figures[key]:.3f}"


def scope_rows(scope: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield what each score says of requests out of scope: name, AUROC with interval, false refusals, refused."""
    for name, title in SCOPE_METHODS.items():
        if name in scope["methods"]:
            its = scope["methods"][name]
            low, high = its["interval"]
            auroc = f"{its['auroc']:.3f} ({low:.3f}–{high:.3f})"
            yield title, auroc, share(its["false_refusals"]), share(its["refused"])


def scope_sentence(scope: Mapping[str, Any]) -> str:
    """Say what was told apart, and by which threshold."""
    return (
        f"{count(scope['in_scope'], 'request')} in scope, {scope['out_of_scope']:,} out of it; refused is what scores "
        f"below all but {100 * scope['aimed_at']:g}% of the device's own memories. "
        f"{scope['devices_without_threshold']:,} of {count(scope['devices'], 'device')} had too few to refuse anything."
    )
