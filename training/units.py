"""The unit of every score."""

import math


def bits(nats: float, weight: float) -> float:
    """Nats over what they are counted per (UTF-8 bytes, or labels) as bits; infinite where there is none."""
    return nats / (weight * math.log(2)) if weight else math.inf
