"""How the messages of rounds and what is in them are called (`federation/PROTOCOL.md`)."""

# Messages, by Flower's type.
TRAIN_MESSAGE, RESCORER_MESSAGE, CHOICE_MESSAGE = "train", "train.rescorer", "train.choice"
CENTRAL_MESSAGE, PRIVATE_MESSAGE = "train.central", "train.private"

# Arrays.
ARRAY = "model"
WEIGHTS = "weights"  # Of the re-scorer, or of habits, beside the model.

# Values.
CATALOGUE = "catalogue"  # The fingerprint of the one that a round pins.
FACTORS, ITEMS, STEP = "factors", "items", "step"
STAGE, MESSAGE, TERMS, ROSTER = "stage", "message", "terms", "roster"
