"""The what-if page: a form, an answer while sliders move, a simulation when they rest. Nothing is written."""
