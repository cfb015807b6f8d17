"""Requests on an engine: a static batch, a simulated scheduler, or the steady state in closed form."""
