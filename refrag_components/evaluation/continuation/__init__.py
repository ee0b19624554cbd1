"""How well running text is continued, with each method."""
