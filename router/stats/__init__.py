"""Formulas: probabilities to be the best, tests that are valid after every event, estimators of other policies."""
