"""What the owner decides and can read: consent, limits and the account of what left."""
