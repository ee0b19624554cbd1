"""The generator as a server that speaks OpenAI's protocol (extra ``serve``)."""
