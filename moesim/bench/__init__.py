"""Tools that run a real serving engine and record what it did; nothing in moesim imports them."""
