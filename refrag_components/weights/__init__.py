"""Where base models and checkpoints come from, and how they are loaded."""
