"""A measuring campaign: what it asks, what is predicted of it before it runs, and how both compare."""
