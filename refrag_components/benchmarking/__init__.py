"""How fast a model answers: the measurements behind docs/performance.md."""
