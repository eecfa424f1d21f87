"""What lies outside the store's folder: the device secret, the witness against rollback, archives."""
