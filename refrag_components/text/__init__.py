"""From files to chunks: documents, passages, tokens."""
