"""Published methods that personalization and choice are measured against, one short file for each."""
