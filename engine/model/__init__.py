"""The shared model: labels, inputs, scores, training, checkpoints, and migrations between catalogues."""
