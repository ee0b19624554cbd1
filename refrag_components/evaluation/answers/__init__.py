"""Answers to questions, with each method and at each budget."""
