"""Which item next: histories, habits in context, factors learned by sums, and the model that holds them."""
