"""A round: settings, the device's agent, Flower apps, strategies and what is learned by sums."""
