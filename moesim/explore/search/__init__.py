"""Choosing among ways to run a model that does not fit: what can be tried, what it gives, what is within limits."""

from moesim.explore.search.best import Configuration, SearchResult, search, why_lost

__all__ = ["Configuration", "SearchResult", "search", "why_lost"]
