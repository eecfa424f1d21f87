"""The noise of a round in which half of the cohort drops out, within a given ε: what is counted on, and no more."""

from federation.privacy.accounting import PrivacyPlan
from federation.privacy.calibration import calibrate
from federation.privacy.parameters import NoiseParameters

HONEST_SHARE = 0.5


def accounted_noise(epsilon: float, *, delta: float, devices: int, dimension: int, rounds: int = 1) -> NoiseParameters:
    """The noise of a run of ``rounds``, all devices in each, within ``epsilon`` against the server.

    ``devices`` are the fewest that any sum holds which is unmasked; each gives ``dimension`` numbers of a norm of 1.
    """
    cohort = round(devices / HONEST_SHARE)
    plan = PrivacyPlan(
        devices=cohort, cohort=cohort, rounds=rounds, participations=rounds, delta=delta, dimension=dimension
    )
    return NoiseParameters(
        dimension=dimension,
        clip_norm=1.0,
        noise_multiplier=calibrate(plan, epsilon),
        cohort=cohort,
        honest_share=HONEST_SHARE,
    )
