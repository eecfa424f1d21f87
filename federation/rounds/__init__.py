"""A round: settings, Flower apps, strategies and what is learned by sums."""
