"""Answers to questions, by each method and at each budget."""
