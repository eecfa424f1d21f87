"""What a device takes part in at most, whatever a server asks."""

# More than any plan needs: devices abstain where a server asks for more, which would only keep them busy.
MOST_LOCAL_STEPS = 200
# Fewer devices hide nobody well, whatever the noise.
LEAST_COHORT = 10
