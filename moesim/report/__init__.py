"""Predictions for people and programs: text, cost trees, JSON, quality pages."""
