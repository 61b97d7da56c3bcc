"""The formulas: chances to be the best, tests that may be looked at after every event, estimators of other policies."""
