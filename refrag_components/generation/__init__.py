"""Requests to answers: store, policy, layout and engine put together."""
