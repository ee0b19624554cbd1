"""Measurements as files, tables and charts."""
