"""How well text is continued and said again, by each method."""
