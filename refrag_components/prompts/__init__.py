"""Prompts: messages and resolved passages to parts, and parts to token ids."""
