"""What the store keeps, as bytes before they are sealed (``FORMAT.md``): records, vectors, columns, head, registry."""
