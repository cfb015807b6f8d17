"""Traces of requests as they are published: one reader for tables, one for JSON, and what each format is."""
