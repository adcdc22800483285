"""Learners and searchers on RCNAS-v0: the paper's agent and its rivals. Run from the checkout; not installed."""
