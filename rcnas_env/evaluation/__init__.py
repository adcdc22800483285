"""One evaluation path, several engines: `evaluate(jobs)` → `Evaluation` records, with a store in front."""
